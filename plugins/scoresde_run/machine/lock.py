"""Locks on open files, which end with the process that holds them."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from scoresde_core import FileError

Kind = Literal["lockf", "flock"]


@contextmanager
def held(path: Path, kind: Kind) -> Iterator[bool]:
    """Lock the file ``path``, made if it is missing, until the block ends; yield False if another process holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileError(f"cannot write to {path.parent}: {error.strerror or error}; choose another --out") from error
    try:
        yield lock(file, kind) is not False
    finally:
        os.close(file)


def lock(file: int, kind: Kind) -> bool | None:
    """Try to lock ``file``: True if this process holds the lock now, False if another does, None if it has no locks.

    No child inherits ``lockf``, so a worker that outlives its parent does not hold it; but it ends when the process
    closes any descriptor of the file, as ``flock`` does not.
    """
    try:
        getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # some network file systems have no locks
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True
