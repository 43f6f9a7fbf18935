"""scoresde: score-based generative models through SDEs, as plugins, measured against exact truth.

The names that a user needs, imported on first use, so that ``import scoresde`` is cheap.

>>> import scoresde
>>> sde = scoresde.create("sdes", "vp[beta_max=20]")
>>> sampler = scoresde.create("samplers", "pc[predictor=reverse_diffusion,corrector=langevin,steps=100]")
>>> model = scoresde.ExactScore(scoresde.create("targets", "mixture2d"), sde)
>>> scoresde.sample(model, sampler, n=64, seed=0).x.shape
torch.Size([64, 2])
"""

from importlib import import_module
from typing import Any

import scoresde_core

_HOME = {
    "scoresde_run.data.batches": ("Batch", "Batches", "Preprocessing"),
    "scoresde_run.data.dataset": ("Dataset",),
    "scoresde_run.data.dequantizer": ("Dequantizer",),
    "scoresde_run.data.evidence": ("Evidence", "Reference"),
    "scoresde_run.data.units": ("Units",),
    "scoresde_run.features.extraction": ("EventSet", "Extraction"),
    "scoresde_run.features.extractor": ("Extractor", "Features"),
    "scoresde_run.models.classifier": ("NoisyClassifier",),
    "scoresde_run.sampling.condition": ("Condition", "ConditionedSampler", "Observation"),
    "scoresde_plugins.evaluators.comparison": ("Comparison",),
    "scoresde_run.models.config": ("Config",),
    "scoresde_run.models.model": ("Model",),
    "scoresde_run.models.network": ("Network",),
    "scoresde_run.models.network_score": ("NetworkScore",),
    "scoresde_run.models.checkpoint": ("Checkpoint",),
    "scoresde_run.machine.processes": ("Processes",),
    "scoresde_run.training.trainer": ("Trainer", "plan_training"),
    "scoresde_run.training.run": ("TrainingRun",),
}
_MODULE_OF = {
    **dict.fromkeys(scoresde_core.__all__, "scoresde_core"),
    **{name: module for module, names in _HOME.items() for name in names},
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
