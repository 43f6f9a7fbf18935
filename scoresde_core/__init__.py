"""The core of scoresde: kinds of components, their contracts, the registry and the sampling loop.

Names are imported on first use, so that ``import scoresde_core`` costs nothing.
"""

from importlib import import_module
from typing import Any

from . import moved

_HOME = {
    "sde": ("SDE", "Level", "GaussianPrior", "Transition", "Discretization", "DATA"),
    "schedule": ("Grid", "Schedule", "Step"),
    "steps": ("Predictor", "MultistepPredictor", "Corrector"),
    "score": ("ScoreModel", "ExactScore", "level_of"),
    "sampler": ("Sampler", "Samples", "sample"),
    "target": ("Target",),
    "estimate": ("Estimate",),
    "evaluator": ("Evaluator", "Metric"),
    "loss": ("Loss", "Draws"),
    "command": ("Command",),
    "noise": ("Noise", "Draw"),
    "components": ("param", "Spec"),
    "registry": ("Registry", "create", "default_registry", "handed_registry", "load_registry"),
    "hookspecs": ("hookimpl",),
    "errors": ("ScoreSDEError", "UsageError"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        return moved.former(__name__, name)
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
