"""The bundled plugins. They come in through the same entry point and manifest as anybody else's."""

from scoresde_core import moved

moved.install()
