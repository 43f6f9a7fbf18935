"""Two folders of pictures, matched by name: an event, and a picture that is known of it."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs.validators import optional
from torch import Tensor
from scoresde_core import FileError, param
from scoresde_run import Split
from . import pictures
from .files import ImageFolderDataset, image_folder


def _pairs(folder: Path) -> dict[str, Any]:
    """Write two folders of images with the same names."""
    for name in "xy":
        (folder / name).mkdir()
    return {**image_folder(folder / "x"), "y": image_folder(folder / "y")["path"]}


@attrs.frozen
class PairedDataset(ImageFolderDataset):
    """The pictures of ``path``, and of ``y`` those with the same names (suffixes may differ), known as ``y``.

    Both are cropped and resized alike, unless ``y_size`` is given. The pictures of ``y`` are kept in memory.
    """

    example: ClassVar = staticmethod(_pairs)

    y: str = param(help="folder, .zip of the pictures that are known, such as noisy or small ones", kw_only=True)
    y_size: pictures.Size | None = param(None, f"of y: {pictures.SIZE_HELP}; null: size", optional(pictures.positive))

    def files(self) -> list[str]:
        return [*super().files(), self.y]

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``y``, uint8 (N, C, H, W), and the ``labels`` of the events; FileError names pairs that do not match."""
        place, other = self.place(split), pictures.source_at(self.y)
        pictures.check_labelled(self.broken)
        sources = (pictures.source_at(place), other)
        names, theirs = ({str(name).rpartition(".")[0]: name for name in s.names()} for s in sources)
        for one, two, lacking in ((names, theirs, self.y), (theirs, names, place)):
            if (missing := sorted(one.keys() - two.keys())) and not (one is theirs and self.test is not None):
                raise FileError(f"{lacking!r} has no picture {missing[0]!r} ({len(missing)} of {len(one)}): make pairs")
        kept = [theirs[stem] for stem in names]
        picked = [kept[row] for row in self.rows(len(kept), split).tolist()]
        y = pictures.Pictures(other, picked, self.fit(self.y_size or self.size), where=self.y).all()
        return {**super().known(split), "y": y}
