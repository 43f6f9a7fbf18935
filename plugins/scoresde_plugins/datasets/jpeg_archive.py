"""Encoded images packed into one array: ``train.npz`` and ``test.npz`` with ``jpeg`` and ``offsets``.

Image i is the bytes ``jpeg[offsets[i] : offsets[i + 1]]``, in any format that PIL reads: a tenth of the pixels' size.
Its class is ``labels[i]``, if there is such an array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from attrs.validators import ge, optional
from numpy.typing import NDArray
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.data.dataset import Split
from scoresde_run.machine import inputs

from . import examples
from .pictures import BROKEN_HELP, Broken, Fit, PictureDataset, Pictures, check_labelled, decoded


@attrs.frozen(eq=False)
class Packed:
    """The images of one file, by number."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def names(self) -> list[int]:
        """0 .. N - 1."""
        return list(range(len(self.offsets) - 1))

    def read(self, name: int) -> bytes:
        """Return the encoded image."""
        return self.data[self.offsets[name] : self.offsets[name + 1]].tobytes()


@attrs.frozen
class JPEGArchiveDataset(PictureDataset):
    """Packed images, (1 or 3, H, W), as stored or resized after a central square crop."""

    example: ClassVar = staticmethod(examples.jpeg_archive)

    path: str = param(help="folder that contains train.npz and test.npz")
    size: int | None = param(None, "side in pixels; null: as stored", optional(ge(1)))
    grey: bool = param(False, "one grey channel instead of three")
    broken: Broken = param("fail", BROKEN_HELP)

    @property
    def shape(self) -> tuple[int, ...]:
        """(1 or 3, H, W), by default that of the first test image."""
        if self.size is not None:
            return (1 if self.grey else 3, self.size, self.size)
        return tuple(self.open("test")[0].shape)

    def files(self) -> list[Path]:
        """Return the files of both splits."""
        return [self._file("train"), self._file("test")]

    def open(self, split: Split = "train") -> Pictures:
        file = self._file(split)
        arrays = self._arrays(split)
        packed = Packed(arrays["jpeg"], arrays["offsets"])
        steps = np.diff(packed.offsets)
        if packed.data.dtype != np.uint8 or (steps < 0).any() or packed.offsets[-1] > len(packed.data):
            raise FileError(f"{file} is damaged: its offsets exceed its {len(packed.data)} bytes")
        return decoded(packed, packed.names(), Fit(self.size, grey=self.grey), self.broken, str(file))

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        labels = self._arrays(split).get("labels")
        if labels is None:
            return {}
        check_labelled(self.broken)
        return {"labels": torch.from_numpy(labels.astype(np.int64))}

    def _file(self, split: Split) -> Path:
        return Path(self.path) / f"{split}.npz"

    def _arrays(self, split: Split) -> dict[str, NDArray[Any]]:
        file = self._file(split)
        with inputs.arrays(file, "packed images (arrays jpeg and offsets)") as found:
            return {name: found[name] for name in ("jpeg", "offsets", *({"labels"} & set(found.names)))}
