"""scoresde-bench: compares samplers with each other and with exact samples."""

import scoresde_core  # noqa: F401  # makes old names importable
