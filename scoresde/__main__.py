"""``python -m scoresde``: the same as ``scoresde``, and what ``torchrun`` starts."""

from scoresde_core.shell import run

run()
