"""``python -m scoresde_core`` runs ``scoresde``; ``torchrun`` starts this module.

``-m`` puts the working folder first in ``sys.path``, where a file ``attrs.py`` would replace a library.
"""

import sys
from os import getcwd, path

if not sys.flags.safe_path and sys.path[0] == getcwd() != path.dirname(path.dirname(path.realpath(__file__))):
    del sys.path[0]

from importlib import import_module  # after the working folder has left sys.path

from .plugins import discover

discover()  # puts the folders of a plain checkout on the import path
import_module("scoresde").run()
