"""``python -m scoresde`` runs ``scoresde``."""

import scoresde_core.__main__  # noqa: F401  # which runs it
