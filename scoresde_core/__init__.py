"""The core of scoresde: kinds of components, their contracts, the registry and the sampling loop.

Names are imported on first use, so that ``import scoresde_core`` costs nothing; ``__init__.pyi`` lists them.
"""

from . import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)
