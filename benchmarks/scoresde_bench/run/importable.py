"""What Python may import from: not from the working folder, unless a package of ours is in it.

``python -m`` and ``python -c`` look there first, so that a file of results called ``code.py`` would take the place of a
module of the standard library, here or in every worker. Components of a local registry file need no such path: they are
looked for beside that file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scoresde_core
import scoresde_run

_HOMES = {str(Path(str(file)).resolve().parent.parent) for file in (scoresde_core.__file__, scoresde_run.__file__)} | {
    str(Path(__file__).resolve().parents[2])
}


def forget_working_folder() -> None:
    """Take the entry that ``python -m`` put first off ``sys.path``, unless it is needed."""
    if not sys.flags.safe_path and sys.path and _is_strange(sys.path[0]):
        del sys.path[0]


def environment() -> dict[str, str]:
    """Variables by which another process can import what this one can, and nothing from its own working folder."""
    found = [entry or os.getcwd() for entry in sys.path if entry or not _is_strange(entry)]
    return {"PYTHONPATH": os.pathsep.join(found), "PYTHONSAFEPATH": "1"}


@contextmanager
def inherited() -> Iterator[None]:
    """This process has :func:`environment` too, for others to start that ask no one."""
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _is_strange(entry: str) -> bool:
    """Whether it is the working folder, and no package of ours is in it."""
    here = os.path.realpath(entry or os.getcwd())
    return here == os.path.realpath(os.getcwd()) and here not in _HOMES
