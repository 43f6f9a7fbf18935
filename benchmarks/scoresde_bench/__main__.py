"""``python -m scoresde_bench``: the same as ``scoresde-bench``."""

import sys

from .run.importable import forget_working_folder

forget_working_folder()

from .cli import main  # noqa: E402  # after the working folder has left sys.path

sys.exit(main())
