"""scoresde-bench: which sampler is best, measured against the truth."""

from scoresde_core import moved

moved.install()
