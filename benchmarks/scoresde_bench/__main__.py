"""``python -m scoresde_bench``: the same as ``scoresde-bench``."""

import sys

from .cli import main

sys.exit(main())
