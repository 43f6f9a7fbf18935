"""``python -m scoresde_core``: the same as ``scoresde``, and what ``torchrun`` starts."""

from .shell import run

run()
