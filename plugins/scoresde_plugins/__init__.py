"""The bundled plugins. They come in through the same entry point and manifest as anybody else's."""
