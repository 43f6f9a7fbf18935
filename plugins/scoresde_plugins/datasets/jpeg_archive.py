"""Encoded images packed into one array: ``train.npz`` and ``test.npz`` with ``jpeg`` and ``offsets``.

Image i is the bytes ``jpeg[offsets[i] : offsets[i + 1]]``, in any format that PIL reads: a tenth of the pixels' size.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
from attrs.validators import ge, optional
from numpy.typing import NDArray
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError

from .pictures import BROKEN_HELP, Broken, Fit, Pictures, decoded


@attrs.frozen(eq=False)
class Packed:
    """The images of one file, by number."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def names(self) -> list[int]:
        """0 .. N - 1."""
        return list(range(len(self.offsets) - 1))

    def read(self, name: int) -> bytes:
        """The encoded image."""
        return self.data[self.offsets[name] : self.offsets[name + 1]].tobytes()


@attrs.frozen
class JPEGArchiveDataset(Dataset):
    """Packed images, (1 or 3, H, W), kept as they are or resized after a central square crop."""

    path: str = param(help="folder that holds train.npz and test.npz")
    size: int | None = param(None, "pixels of a side; null: as stored", optional(ge(1)))
    grey: bool = param(False, "one grey channel instead of three")
    broken: Broken = param("fail", BROKEN_HELP)

    @property
    def shape(self) -> tuple[int, ...]:
        """(1 or 3, H, W), of the first test image where none is asked for."""
        if self.size is not None:
            return (1 if self.grey else 3, self.size, self.size)
        return tuple(self.open("test")[0].shape)

    def open(self, split: Split = "train") -> Pictures:
        """The images of a split, decoded one by one."""
        file = Path(self.path) / f"{split}.npz"
        try:
            with np.load(file, allow_pickle=False) as arrays:
                packed = Packed(arrays["jpeg"], arrays["offsets"])
        except Exception as error:  # missing, no zip, or without one of the arrays
            raise FileError(f"cannot read {file} as packed images (arrays jpeg and offsets): {error}") from error
        steps = np.diff(packed.offsets)
        if packed.data.dtype != np.uint8 or (steps < 0).any() or packed.offsets[-1] > len(packed.data):
            raise FileError(f"{file} is damaged: its offsets do not lie within its {len(packed.data)} bytes")
        return decoded(packed, packed.names(), Fit(self.size, grey=self.grey), self.broken, str(file))

    def load(self, split: Split = "train") -> Tensor:
        """uint8 (N, 1 or 3, H, W)."""
        return self.open(split).all()
