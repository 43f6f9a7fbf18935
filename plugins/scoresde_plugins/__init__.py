"""The bundled plugins. They come in through the same entry point and manifest as anybody else's."""

import scoresde_core  # noqa: F401  # makes old names importable
