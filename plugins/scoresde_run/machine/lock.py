"""Locks: one command at a time works in a folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from scoresde_core.errors import FileError


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Make ``folder`` if it is missing, and lock it until the block or the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error
    with file:
        # No child inherits this kind of lock, so a worker that outlives its parent does not hold it.
        if not is_free(file, "lockf"):
            raise FileError(f"another process is {doing} in {folder}: wait for it, or choose another --out")
        yield


def is_free(file: IO[Any], kind: Literal["lockf", "flock"]) -> bool:
    """Try to lock ``file``; return whether this process holds the lock now, or the system has no locks."""
    try:
        import fcntl
    except ImportError:  # the system has no such locks
        return True
    try:
        getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # some network file systems have no locks
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
