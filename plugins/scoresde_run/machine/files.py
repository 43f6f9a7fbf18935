"""Files and folders that appear whole or not at all, whatever happens while they are written, and stay.

Content goes to a temporary beside the target, ``.NAME.part``, is flushed to the disk, and is renamed; then the new
entry of the folder is flushed. Any error removes the temporary. A process holds a lock on its temporary, so that of a
killed process is known: it is removed when the same file or folder is made again, and by :func:`clean`. (While another
process makes a file of that name, the temporary is ``.NAME.1.part``, and so on.)
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from safetensors import SafetensorError
from scoresde_core import FileError
from .lock import held, lock

LOCK = ".lock"  # the lock file of a folder in which one command at a time works


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary that replaces ``path``, whose folders are made, in the end; an ``OSError`` is a FileError."""
    with writing(path):
        make(path.absolute().parent)
        with _temporary(path, lambda name: name.open("xb").close()) as temporary:
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.absolute().parent)


def write(path: Path, content: str | bytes) -> None:
    """Write ``content``, text as UTF-8, to ``path``, in place of any file there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` in the end; errors of the disk are a FileError."""
    with writing(folder), _temporary(folder, os.mkdir) as temporary:
        yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):  # what is in a folder comes before it
            if not path.is_dir():
                path.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
            flush(path)
        flush(temporary)
        temporary.rename(folder)
        flush(folder.absolute().parent)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Lock ``folder`` until the block ends; a new one appears with its lock file in it, which marks it as ours."""
    if not folder.exists():
        with writing(folder):
            make(folder.absolute().parent)
        try:
            with new_folder(folder) as scratch:
                (scratch / LOCK).touch()
        except FileError:
            if not folder.exists():  # else another process was quicker
                raise
    with writing(folder):
        flush(folder.absolute().parent)  # a kill may have made the folder and gone no further
    with held(folder / LOCK, "lockf") as free:
        if not free:
            raise FileError(f"another process is {doing} in {folder}: wait for it, or choose another --out")
        yield


def check_new(path: Path) -> None:
    """Raise :class:`FileError` where ``path`` exists or its parent folder cannot be written to."""
    if path.exists() or path.is_symlink():
        raise FileError(f"{path} exists: choose another --out, or remove it")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise FileError(f"there is no folder {parent} to hold {path.name}: make it first")
    try:
        with _temporary(path, os.mkdir):
            pass
    except OSError as error:
        raise FileError(f"cannot write to {parent}: {error.strerror or error}; choose another --out") from error


def make(folder: Path) -> None:
    """Make ``folder`` and the missing ones above it, and flush their entries."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def discard(folder: Path) -> None:
    """Remove ``folder``. A kill in between leaves it whole, or renamed to a temporary."""
    with writing(folder):
        temporary = next(name for name in _names(folder) if not os.path.lexists(name) or _remove(name))
        folder.rename(temporary)
        flush(folder.absolute().parent)
        shutil.rmtree(temporary, ignore_errors=True)


def clean(folder: Path) -> None:
    """Remove the temporaries of killed processes below ``folder``."""
    for path in list(folder.glob("**/.*.part")):
        _remove(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the disk as a :class:`FileError` that names ``path``."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        raise FileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(path: Path) -> Iterator[Path]:
    """The names of temporaries of ``path``, in the order in which they are tried."""
    for number in count():
        yield path.with_name(f".{path.name}.{number}.part" if number else f".{path.name}.part")


@contextmanager
def _temporary(path: Path, made: Callable[[Path], None]) -> Iterator[Path]:
    """Create a temporary of ``path``, locked, and remove it in the end unless it was renamed."""
    temporary, descriptor = _begin(path, made)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            if _is(temporary, descriptor):
                _delete(temporary)
        os.close(descriptor)


def _begin(path: Path, made: Callable[[Path], None]) -> tuple[Path, int]:
    names = _names(path)
    temporary = next(names)
    while True:
        try:
            made(temporary)
        except FileExistsError:
            if not _remove(temporary):
                temporary = next(names)
            continue
        descriptor = os.open(temporary, os.O_RDONLY)
        # False: another process takes it for abandoned, and removes it.
        if lock(descriptor, "flock") is not False and _is(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)


def _remove(temporary: Path) -> bool:
    """Remove a temporary if it is of a killed process; return whether it is gone."""
    with suppress(OSError):
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if lock(descriptor, "flock") and _is(temporary, descriptor):
                _delete(temporary)
        finally:
            os.close(descriptor)
    return not os.path.lexists(temporary)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
