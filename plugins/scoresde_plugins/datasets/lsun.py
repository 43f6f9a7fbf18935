"""LSUN (Yu et al. 2015, arXiv:1506.03365): scenes and objects, as the lmdb folders that its authors distribute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import ge

from scoresde_core.components import param
from scoresde_core.errors import FileError
from scoresde_run.data.dataset import Split

from .pictures import BROKEN_HELP, Broken, Fit, PictureDataset, Pictures, decoded

_open: dict[Path, tuple[int, Any]] = {}
"""The environment of each folder, and the process that opened it."""


def environment(path: Path) -> Any:
    """Return the lmdb environment of a folder; lmdb allows only one per process.

    A forked worker inherits an environment that it must not use, and must close it before it opens its own.
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
        """Return all keys, in the database's order."""
        with environment(self.path).begin() as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]

    def read(self, name: bytes) -> bytes:
        """Return the encoded image."""
        with environment(self.path).begin() as transaction:
            return bytes(transaction.get(name))


@attrs.frozen
class LSUNDataset(PictureDataset):
    """One category, (3, size, size): the largest central square, bicubic; the test split is LSUN's validation."""

    root: str = param("data", "folder that contains CATEGORY_train_lmdb and CATEGORY_val_lmdb")
    category: str = param("church_outdoor", "such as bedroom or church_outdoor")
    size: int = param(256, "side in pixels", ge(1))
    broken: Broken = param("fail", BROKEN_HELP)

    def files(self) -> list[Path]:
        """Return the databases of both splits, without lmdb's lock files."""
        return [self._folder(split) / "data.mdb" for split in ("train", "test")]

    def _folder(self, split: str) -> Path:
        return Path(self.root) / f"{self.category}_{'train' if split == 'train' else 'val'}_lmdb"

    def open(self, split: Split = "train") -> Pictures:
        path = self._folder(split)
        if not path.is_dir():
            raise FileError(
                f"the LSUN folder {path} does not exist: give its parent, lsun[root=...], or download it with LSUN's "
                "download.py and unzip it there (torchvision cannot)"
            )
        database = Database(path)
        try:
            names = database.names()
        except Exception as error:  # lmdb has errors of its own
            raise FileError(f"cannot read the LSUN database {path}: {error}") from error
        return decoded(database, names, Fit(self.size), self.broken, str(path))
