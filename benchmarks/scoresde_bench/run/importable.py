"""Keeps Python from importing from the working folder, unless one of our packages is in it.

``python -m`` and ``python -c`` look there first, so a file called ``code.py`` among the results would replace a module
of the standard library, here and in every worker. Components of a local registry file are not affected: they are
looked up beside that file.
"""

import os
import sys

import scoresde_core
import scoresde_run

_HOMES = {
    os.path.realpath(os.path.join(str(file), *[os.pardir] * up))
    for file, up in ((scoresde_core.__file__, 2), (scoresde_run.__file__, 2), (__file__, 3))
}


def environment() -> dict[str, str]:
    """Return variables with which another process imports what this one can, and nothing from its working folder."""
    found = [entry or os.getcwd() for entry in sys.path if entry or not is_strange(entry)]
    return {"PYTHONPATH": os.pathsep.join(found), "PYTHONSAFEPATH": "1"}


def is_strange(entry: str) -> bool:
    """Whether ``entry`` is the working folder and none of our packages is in it."""
    here = os.path.realpath(entry or os.getcwd())
    return here == os.path.realpath(os.getcwd()) and here not in _HOMES
