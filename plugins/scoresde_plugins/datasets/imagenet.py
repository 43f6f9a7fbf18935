"""Downsampled ImageNet (Chrabaszcz et al. 2017, arXiv:1707.08819), 32 x 32 or 64 x 64, as its authors distribute it.

Files are ``train_data_batch_1`` .. ``_10`` and ``val_data``, each a dictionary whose ``data`` is uint8 (N, 3 S S), and
``labels`` 1 .. 1000, pickled or as ``.npz``. Reading a pickle can run code; here it can only make NumPy arrays.
"""

from __future__ import annotations

import codecs
import pickle
import re
from pathlib import Path
from typing import IO, Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_core.plugins import one_line
from scoresde_run.data.dataset import Dataset, Split
from scoresde_run.machine import inputs

_MAKERS: tuple[Any, ...] = (
    np.zeros(1).__reduce__()[0],  # _reconstruct
    np.zeros(1).__reduce_ex__(5)[0],  # _frombuffer
    np.float64(0).__reduce__()[0],  # scalar
    np.ndarray,
    np.dtype,
)
_BUILDERS = {maker.__name__: maker for maker in _MAKERS}


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, text and NumPy arrays; anything else is refused before it is made."""

    def __init__(self, file: IO[bytes]) -> None:
        # Files of Python 2 hold the bytes of an array as text; latin1 keeps them.
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Return NumPy's array constructors, in any version's module, and the codec of Python 2's bytes."""
        if module.partition(".")[0] == "numpy" and name in _BUILDERS:
            return _BUILDERS[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    return codecs.encode(text, "latin1")


_PATTERNS: dict[Split, str] = {"train": "train_data_batch_*", "test": "val_data*"}


@attrs.frozen
class DownsampledImageNetDataset(Dataset):
    """1,281,167 training and 50,000 validation images, (3, size, size)."""

    levels = 256

    root: str = param("data", "folder that contains the files, at any depth")
    size: Literal[32, 64] = param(32, "side in pixels")

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def files(self) -> list[Path]:
        """Return the batches of both splits."""
        return [path for pattern in _PATTERNS.values() for path in self._matching(pattern)]

    def load(self, split: Split = "train") -> Tensor:
        """uint8 (N, 3, size, size), batch 1 first."""
        return torch.cat([self._images(path) for path in self._files(split)])

    def known(self, split: Split = "train") -> dict[str, Tensor]:
        """``labels`` 0 to 999; the files count from 1."""
        return {"labels": torch.cat([torch.as_tensor(self._read(p, "labels")).long() - 1 for p in self._files(split)])}

    def _matching(self, pattern: str) -> list[Path]:
        return [p for p in Path(self.root).rglob(pattern) if p.suffix in ("", ".npz") and p.is_file()]

    def _files(self, split: Split) -> list[Path]:
        pattern = _PATTERNS[split]
        files = self._matching(pattern)
        if not files:
            raise FileError(
                f"there is no {pattern} below {self.root!r}: give the folder, imagenet[root=...]; the files are at "
                "image-net.org (Download downsampled image data), after a login"
            )
        return sorted(files, key=_number)

    def _read(self, path: Path, name: str) -> Any:
        try:
            if path.suffix == ".npz":
                with inputs.arrays(path) as file:
                    return file[name]
            with inputs.whole(path).open("rb") as stream:
                return ArrayUnpickler(stream).load()[name]
        except Exception as error:  # a damaged pickle fails in any way
            raise FileError(f"cannot read {path} as a batch of downsampled ImageNet: {one_line(error)}") from error

    def _images(self, path: Path) -> Tensor:
        data = self._read(path, "data")
        width = 3 * self.size**2
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
            found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise FileError(f"{path} must hold uint8 rows of {width} numbers for size={self.size}, got {found}")
        return torch.from_numpy(data).reshape(-1, 3, self.size, self.size)


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"(\d+)$", path.stem)
    return (int(digits[1]) if digits else 0, path.name)
