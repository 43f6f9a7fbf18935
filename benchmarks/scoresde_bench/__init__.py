"""scoresde-bench: compares samplers with each other and with exact samples."""

from scoresde_core import moved

moved.install()
