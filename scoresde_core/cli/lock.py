"""A folder that one command at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FileError


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """``folder``, made where it is missing, for this process alone, until it ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error
    with file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on this system
            pass
        except OSError as error:
            raise FileError(f"another process is {doing} in {folder}: wait for it, or choose another --out") from error
        yield
