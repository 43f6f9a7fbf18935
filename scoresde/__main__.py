"""``python -m scoresde`` runs ``scoresde``; ``torchrun`` starts this module."""

from scoresde_core.shell import run

run()
