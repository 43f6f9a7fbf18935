"""CelebA (Liu et al. 2015): aligned faces, cropped as in the papers of score-based models."""

from __future__ import annotations

from pathlib import Path

import attrs
from attrs.validators import ge

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.data.dataset import Split
from scoresde_run.machine import inputs

from .pictures import BROKEN_HELP, Broken, Fit, PictureDataset, Pictures, decoded, source_at
from .vision import DOWNLOAD_HELP, torchvision_datasets

_PARTITION = {"train": "0", "test": "1"}


@attrs.frozen
class CelebADataset(PictureDataset):
    """162,770 training faces, (3, size, size); the test split is the 19,867 validation faces, as published.

    Reads ``root/celeba/list_eval_partition.txt`` and the images in ``root/celeba/img_align_celeba``, a folder or .zip.
    The published crop of 140 of the 178 x 218 pixels keeps the face; it is resized bilinearly, as published.
    """

    root: str = param("data", "folder that contains celeba/, or receives it")
    size: int = param(64, "side in pixels", ge(1))
    crop: int = param(140, "side of the central crop before resizing, in pixels", ge(1))
    broken: Broken = param("fail", BROKEN_HELP)
    download: bool = param(False, DOWNLOAD_HELP)

    def files(self) -> list[Path]:
        """``celeba/``."""
        return [Path(self.root) / "celeba"]

    def open(self, split: Split = "train") -> Pictures:
        folder = Path(self.root) / "celeba"
        if self.download:
            try:
                torchvision_datasets().CelebA(self.root, split="all", download=True)
            except (RuntimeError, OSError, ImportError) as error:
                raise FileError(f"CelebA cannot be downloaded to {self.root!r}: {error}") from error
        images = folder / "img_align_celeba"
        where = images if images.is_dir() else images.with_suffix(".zip")
        try:
            lines = inputs.text(folder / "list_eval_partition.txt", 2**26).splitlines()
            rows = [line.split() for line in lines if line.strip()]
            names = [name for name, part in rows if part == _PARTITION[split]]
        except (OSError, ValueError) as error:
            raise FileError(
                f"CelebA is not in {self.root!r} ({error}): give its folder, celeba[root=...], "
                "or download it with celeba[download=true] (for scoresde train: --download)"
            ) from error
        if not where.exists():
            raise FileError(f"CelebA's images are neither in {images} nor in {where}: unpack them there")
        source = source_at(str(where))
        if where.suffix == ".zip":
            names = [f"img_align_celeba/{name}" for name in names]
        return decoded(source, names, Fit(self.size, self.crop, filter="bilinear"), self.broken, str(where))
