"""A folder that one command at a time works in."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from scoresde_core.errors import FileError


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """``folder``, made where it is missing, for this process alone, until it ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error
    with file:
        # Of the two kinds the one that no child inherits: a worker that outlives its parent holds nobody up.
        if not is_free(file, "lockf"):
            raise FileError(f"another process is {doing} in {folder}: wait for it, or choose another --out")
        yield


def is_free(file: IO[Any], kind: Literal["lockf", "flock"]) -> bool:
    """Whether nobody else holds the lock of ``file``, which is then ours; nobody does where there are no locks."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return True
    try:
        getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # some network file systems have none
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
