"""scoresde: score-based generative models through SDEs, as plugins, measured against exact truth.

Names are imported on first use, so that ``import scoresde_core`` costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "sde": ("SDE", "Level", "GaussianPrior", "Transition", "Discretization", "DATA"),
    "schedule": ("Grid", "Schedule", "Step"),
    "steps": ("Predictor", "Corrector"),
    "score": ("ScoreModel", "ExactScore", "NetworkScore", "level_of"),
    "network": ("Network",),
    "sampler": ("Sampler", "Samples", "sample"),
    "target": ("Target",),
    "certainty": ("Estimate",),
    "evaluator": ("Evaluator", "Comparison", "EventSet", "Evidence", "Metric", "Reference"),
    "extractor": ("Extraction", "Extractor", "Features"),
    "loss": ("Loss", "Draws"),
    "dataset": ("Dataset",),
    "training.batches": ("Batch", "Batches", "Preprocessing"),
    "classifier": ("NoisyClassifier",),
    "condition": ("Condition", "ConditionedSampler", "Observation"),
    "dequantizer": ("Dequantizer",),
    "command": ("Command",),
    "models.config": ("Config",),
    "models.model": ("Model",),
    "processes": ("Processes",),
    "training.trainer": ("Trainer", "plan_training"),
    "training.run": ("TrainingRun",),
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
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
