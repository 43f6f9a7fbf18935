"""The one way to open files of a user, which may be anything: regular files alone, measured before memory is taken."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs
from scoresde_core import FileError, ScoreSDEError
from scoresde_core.document import LIMIT
from scoresde_core.document import regular as regular

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

PICTURE = 2**30  # the largest size of an encoded picture, in bytes
_DENSEST, _SMALL = 200, 2**28
"""A compressed array of more than this size may not be this many times as large as its file has bytes for it."""


def text(source: Path | Traversable, limit: int | None = LIMIT, errors: str = "strict") -> str:
    """The text of a file, or of a package's resource, as UTF-8; without a limit it must fit into memory."""
    found = source if not isinstance(source, Path) else whole(source) if limit is None else regular(source, limit)
    return found.read_bytes().decode("utf-8-sig", errors)


def loads(text: str | bytes) -> Any:
    """The value of JSON; :class:`ValueError` for anything else, also where it has too many levels."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it has too many levels") from error


def whole(path: Path) -> Path:
    """``path``, if it is a regular file that fits into memory."""
    size = regular(path, None).stat().st_size
    with reading(path):
        _check_memory(size, "it")
    return path


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[Path]:
    """The path of a regular file; whatever its reader raises on damaged bytes is a FileError that names it."""
    try:
        yield regular(Path(path), None)
    except (ScoreSDEError, MemoryError):
        raise
    except Exception as error:
        why = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise FileError(f"cannot read {path}{what and f' as {what}'}: {why}") from error


@attrs.frozen
class Arrays:
    """The arrays of an ``.npz`` file, each checked before it is read."""

    path: Path
    archive: zipfile.ZipFile

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        return [name.removesuffix(".npy") for name in self.archive.namelist()]

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and type of an array, without reading it."""
        member = self._member(name)
        check_member(member)
        with self.archive.open(member) as file:
            return _header(file, member.file_size, name)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        import numpy as np

        _check_numbers(*self.header(name), name)
        with self.archive.open(self._member(name)) as file:
            read: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
            return read

    def _member(self, name: str) -> zipfile.ZipInfo:
        return self.archive.getinfo(f"{name}.npy" if f"{name}.npy" in self.archive.NameToInfo else name)


@contextmanager
def arrays(path: Path | str, what: str = "an .npz file") -> Iterator[Arrays]:
    """Yield the arrays of an ``.npz`` file."""
    with reading(path, what) as found, zipfile.ZipFile(found) as archive:
        yield Arrays(found, archive)


def array(path: Path | str, what: str = "an .npy file", mapped: bool = False) -> np.ndarray[Any, Any]:
    """The numbers in an ``.npy`` file; ``mapped`` leaves them on the disk until they are used."""
    import numpy as np

    with reading(path, what) as found:
        with found.open("rb") as file:
            _check_numbers(*_header(file, found.stat().st_size, "it"), "it", mapped)
        read: np.ndarray[Any, Any] = np.load(found, "r" if mapped else None, allow_pickle=False)
        return read


def _header(file: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type that an ``.npy`` file of ``size`` bytes says it has; an error if that is more than it has."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version < (2, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if min(shape, default=1) < 0 or (math.prod(shape) * dtype.itemsize > size and not dtype.hasobject):
        raise ValueError(f"the header of {name} says {dtype} of shape {list(shape)}, and it has {size:,} bytes")
    return shape, dtype


def _check_numbers(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, mapped: bool = False) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ValueError(f"{name} has dtype {dtype}, not numbers of at most 64 bits")
    if not mapped:
        _check_memory(math.prod(shape) * dtype.itemsize, name)


def check_member(member: zipfile.ZipInfo, limit: int | None = None) -> None:
    """Refuse a member of a zip file that expands to more than ``limit`` or the memory, or to many times its size."""
    size, name = member.file_size, member.filename
    if limit is not None and size > limit:
        raise ValueError(f"{name} has {size:,} bytes, and a file of its kind at most {limit:,}")
    check_expansion(size, member.compress_size, name)


def check_expansion(size: int, stored: int, name: str) -> None:
    """Refuse to expand ``stored`` bytes to many times their size, or to more than the memory."""
    if size > max(_SMALL, _DENSEST * stored):
        raise ValueError(f"{name} expands from {stored:,} to {size:,} bytes: store it uncompressed")
    _check_memory(size, name)


def _check_memory(size: int, name: str) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    if size > whole:
        raise ValueError(f"{name} needs {size / 2**30:,.1f} GiB of memory, and this machine has {whole / 2**30:,.1f}")


@contextmanager
def picture(path: Path | str, what: str = "an image") -> Iterator[Image]:
    """Yield an image, not yet decoded; one of very many pixels is an error."""
    from PIL import Image as images

    with reading(path, what) as found, images.open(regular(found, PICTURE)) as image:
        yield image


def unpickled(path: Path) -> Any:
    """The content of a PyTorch file of tensors, numbers and containers alone; nothing else in it is made or run."""
    import torch

    with reading(path):
        is_zip = zipfile.is_zipfile(whole(path))
    if is_zip:
        with reading(path, "a PyTorch file"), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_member(member)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes may raise anything in the reader of pickles; its advice is to trust them
        named = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named is None:
            raise FileError(f"{path} is damaged or not a PyTorch file") from error
        given = f"{path} holds a pickled {named[1]} besides tensors, which could run code and is not read"
        raise FileError(f"{given}: save its state dict again, with tensors and numbers alone") from error
