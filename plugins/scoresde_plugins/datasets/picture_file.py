"""Files that contain many pictures, such as zip archives and TensorFlow records."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import attrs

Handle = TypeVar("Handle")


@attrs.define(eq=False)
class PictureFile(ABC, Generic[Handle]):
    """A file of many pictures, which every process opens for itself on first use.

    A forked worker would share its parent's position in the file; pickling keeps only the path.
    """

    path: Path
    _open: tuple[int, Handle] | None = attrs.field(default=None, init=False)

    @abstractmethod
    def opened(self) -> Handle:
        """Open the file."""

    @property
    def file(self) -> Handle:
        """The file as opened by this process."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), self.opened())
        return self._open[1]

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path, self._open = path, None
