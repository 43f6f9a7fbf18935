"""``python -m scoresde_core``: the same as ``scoresde``."""

import sys

from .cli import main

sys.exit(main())
