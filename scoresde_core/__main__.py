"""``python -m scoresde_core`` runs ``scoresde``; ``torchrun`` starts this module."""

from .shell import run

run()
