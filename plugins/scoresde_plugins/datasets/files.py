"""Images of one's own: a folder of image files, or an array in an ``.npz`` file.

Both hold out every k-th image, in the order of their names or of the array, as the test split.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


@attrs.frozen
class _HeldOut(Dataset):
    """Everything but the source itself."""

    path: str = param(help="where the images are")
    test_share: float = param(0.1, "share of the images held out as the test split", and_(gt(0), lt(1)), kw_only=True)

    @abstractmethod
    def images(self) -> Tensor:
        """All images, uint8 (N, C, H, W)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the first image."""
        return tuple(self.images().shape[1:])

    def load(self, split: Split = "train") -> Tensor:
        """The images of a split."""
        images = self.images()
        every = max(2, round(1 / self.test_share))
        held_out = torch.arange(len(images)) % every == every - 1
        return images[held_out if split == "test" else ~held_out]


@attrs.frozen
class ImageFolderDataset(_HeldOut):
    """Every image file below a folder, resized to ``size`` x ``size`` after a central square crop."""

    size: int = param(32, "pixels of a side", ge(1))
    grey: bool = param(False, "one grey channel instead of three")

    def images(self) -> Tensor:
        """uint8 (N, 1 or 3, size, size), in the order of the paths."""
        from PIL import Image, ImageOps

        paths = sorted(p for p in Path(self.path).rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not paths:
            raise FileError(f"there is no image file below {self.path!r}: name a folder of .png or .jpg files")
        arrays = []
        for path in paths:
            try:
                with Image.open(path) as image:
                    fitted = ImageOps.fit(image.convert("L" if self.grey else "RGB"), (self.size, self.size))
            except OSError as error:
                raise FileError(f"cannot read the image {path}: {error}") from error
            arrays.append(np.asarray(fitted))
        stacked = torch.from_numpy(np.stack(arrays))
        return stacked.unsqueeze(1) if self.grey else stacked.permute(0, 3, 1, 2).contiguous()


@attrs.frozen
class NPZDataset(_HeldOut):
    """An array of uint8 images, (N, H, W), (N, H, W, C) or (N, C, H, W), in a NumPy ``.npz`` file."""

    key: str = param("images", "name of the array in the file")

    def images(self) -> Tensor:
        """uint8 (N, C, H, W)."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if self.key not in file.files:
                    raise FileError(
                        f"{self.path} has no array {self.key!r}, only {', '.join(file.files)}: npz[key=...]"
                    )
                array = file[self.key]
        except (OSError, ValueError) as error:
            raise FileError(f"cannot read {self.path} as an .npz file: {error}") from error
        if array.dtype != np.uint8 or array.ndim not in (3, 4):
            raise FileError(f"{self.key!r} in {self.path} must be uint8 images, got {array.dtype} {array.shape}")
        images = torch.from_numpy(array)
        if images.ndim == 3:
            return images.unsqueeze(1)
        channels_last = images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4)
        return images.permute(0, 3, 1, 2).contiguous() if channels_last else images
