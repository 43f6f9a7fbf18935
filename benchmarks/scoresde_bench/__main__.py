"""``python -m scoresde_bench``: the same as ``scoresde-bench``."""

import sys

from .run.importable import is_strange

if not sys.flags.safe_path and sys.path and is_strange(sys.path[0]):  # which ``python -m`` put there
    del sys.path[0]

from .cli import main  # after the working folder has left sys.path

sys.exit(main())
