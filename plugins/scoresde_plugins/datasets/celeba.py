"""CelebA (Liu et al. 2015): aligned faces, cropped as in the papers of score-based models."""

from __future__ import annotations

from pathlib import Path

import attrs
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError

from .pictures import BROKEN_HELP, Broken, Fit, Pictures, decoded, source_at
from .vision import torchvision_datasets

_PARTITION = {"train": "0", "test": "1"}


@attrs.frozen
class CelebADataset(Dataset):
    """162,770 training faces, (3, size, size); the test split is the 19,867 validation faces, as published.

    Reads ``root/celeba/list_eval_partition.txt`` and the images in ``root/celeba/img_align_celeba``, a folder or .zip.
    The published crop of 140 of the 178 x 218 pixels keeps the face; as published it is resized bilinearly.
    """

    levels = 256

    root: str = param("data", "folder that holds celeba/, or will after a download")
    size: int = param(64, "pixels of a side", ge(1))
    crop: int = param(140, "side of the central crop before that, in pixels", ge(1))
    broken: Broken = param("fail", BROKEN_HELP)
    download: bool = param(False, "let torchvision download it where it is missing")

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    def files(self) -> list[Path]:
        """What ``celeba/`` holds."""
        return [Path(self.root) / "celeba"]

    def open(self, split: Split = "train") -> Pictures:
        """The faces of a split, decoded one by one."""
        folder = Path(self.root) / "celeba"
        if self.download:
            try:
                torchvision_datasets().CelebA(self.root, split="all", download=True)
            except (RuntimeError, OSError, ImportError) as error:
                raise FileError(f"CelebA cannot be downloaded to {self.root!r}: {error}") from error
        images = folder / "img_align_celeba"
        where = images if images.is_dir() else images.with_suffix(".zip")
        try:
            lines = (folder / "list_eval_partition.txt").read_text().splitlines()
            rows = [line.split() for line in lines if line.strip()]
            names = [name for name, part in rows if part == _PARTITION[split]]
        except (OSError, ValueError) as error:
            raise FileError(
                f"CelebA is not in {self.root!r} ({error}): name its folder, celeba[root=...], "
                "or get it with celeba[download=true] (for scoresde train: --download)"
            ) from error
        if not where.exists():
            raise FileError(f"CelebA's images are neither in {images} nor in {where}: unpack them there")
        source = source_at(str(where))
        if where.suffix == ".zip":
            names = [f"img_align_celeba/{name}" for name in names]
        return decoded(source, names, Fit(self.size, self.crop, filter="bilinear"), self.broken, str(where))

    def load(self, split: Split = "train") -> Tensor:
        """uint8 (N, 3, size, size)."""
        return self.open(split).all()
