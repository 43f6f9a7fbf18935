"""Files and folders that appear whole or not at all, whatever happens while they are written.

Content goes to a temporary beside the target (``.NAME.PID.part`` for a file, ``.NAME.RANDOM.part`` for a folder), is
flushed to the disk, and is renamed. Any error removes the temporary; :func:`clean` removes those of killed processes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from scoresde_core.errors import FileError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path`` when the block ends; missing parent folders are made.

    Raises :class:`FileError` for an ``OSError`` of the block.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def write(path: Path, content: str | bytes) -> None:
    """Write ``content``, text as UTF-8, to ``path``, in place of any file there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` when the block ends; its files are not in subfolders.

    Raises :class:`FileError` for an ``OSError`` or ``SafetensorError`` of the block.
    """
    parent, temporary = folder.absolute().parent, None
    with writing(folder):
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=parent))
            yield temporary
            for path in [*temporary.iterdir(), temporary]:
                # mkdtemp and safetensors make files that only their owner can read.
                path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
                _flush(path)
            temporary.rename(folder)
            _flush(parent)
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


def check_new(path: Path) -> None:
    """Raise :class:`FileError` where ``path`` exists or its parent folder cannot be written to."""
    if path.exists() or path.is_symlink():
        raise FileError(f"{path} exists: choose another --out, or remove it")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise FileError(f"there is no folder {parent} to hold {path.name}: make it first")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except OSError as error:
        raise FileError(f"cannot write to {parent}: {error.strerror or error}; choose another --out") from error


def discard(folder: Path) -> None:
    """Remove ``folder``. A kill in between leaves it whole, or renamed to a temporary."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def clean(folder: Path) -> None:
    """Remove the temporaries of killed processes below ``folder``; for the one process that owns it."""
    for path in folder.glob("**/.*.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the disk as a :class:`FileError` that names ``path``."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        raise FileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
