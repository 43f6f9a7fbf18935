"""``python -m scoresde_core``: the same as ``scoresde``, and what ``torchrun`` starts."""

from .cli import run

run()
