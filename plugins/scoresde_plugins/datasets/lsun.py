"""LSUN (Yu et al. 2015, arXiv:1506.03365): scenes and objects, as the lmdb folders that its authors distribute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError

from .pictures import BROKEN_HELP, Broken, Fit, Pictures, decoded

_DOWNLOAD = "get it with LSUN's own download.py and unzip it there (torchvision cannot)"


_open: dict[Path, tuple[int, Any]] = {}
"""The environment of each folder, and the process that opened it."""


def environment(path: Path) -> Any:
    """The lmdb environment of a folder: the only one in this process, which is all that lmdb allows.

    A forked worker inherits one that it must not use, and has to close before it may open its own.
    """
    import lmdb  # type: ignore[import-not-found,unused-ignore]

    path = path.resolve()
    process, found = _open.get(path, (None, None))
    if process != os.getpid():
        if found is not None:
            found.close()
        found = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
        _open[path] = (os.getpid(), found)
    return found


@attrs.frozen(eq=False)
class Database:
    """An lmdb folder of encoded images under binary keys."""

    path: Path

    def names(self) -> list[bytes]:
        """Every key, in the database's order."""
        with environment(self.path).begin() as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]

    def read(self, name: bytes) -> bytes:
        """The encoded image."""
        with environment(self.path).begin() as transaction:
            return bytes(transaction.get(name))


@attrs.frozen
class LSUNDataset(Dataset):
    """One category, (3, size, size): the largest central square, bicubic; the test split is LSUN's validation."""

    levels = 256

    root: str = param("data", "folder that holds CATEGORY_train_lmdb and CATEGORY_val_lmdb")
    category: str = param("church_outdoor", "such as bedroom or church_outdoor")
    size: int = param(256, "pixels of a side", ge(1))
    broken: Broken = param("fail", BROKEN_HELP)

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    def files(self) -> list[Path]:
        """The databases of both splits, without lmdb's own locks."""
        return [self._folder(split) / "data.mdb" for split in ("train", "test")]

    def _folder(self, split: str) -> Path:
        return Path(self.root) / f"{self.category}_{'train' if split == 'train' else 'val'}_lmdb"

    def open(self, split: Split = "train") -> Pictures:
        """The images of a split, decoded one by one."""
        path = self._folder(split)
        if not path.is_dir():
            raise FileError(f"there is no LSUN folder {path}: name its parent, lsun[root=...], or {_DOWNLOAD}")
        database = Database(path)
        try:
            names = database.names()
        except Exception as error:  # lmdb has errors of its own
            raise FileError(f"cannot read the LSUN database {path}: {error}") from error
        return decoded(database, names, Fit(self.size), self.broken, str(path))

    def load(self, split: Split = "train") -> Tensor:
        """uint8 (N, 3, size, size)."""
        return self.open(split).all()
