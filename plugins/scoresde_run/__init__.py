"""Models, data, training and results: what turns components into a trained network, samples and rows."""

from scoresde_core import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)
