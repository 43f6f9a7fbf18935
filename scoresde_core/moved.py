"""Modules and names that moved in this version: the old ones still import, with a :class:`DeprecationWarning`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_KEPT_NAME = {
    ("scoresde_core", "scoresde_run.machine"): "device processes",
    ("scoresde_core", "scoresde_run.results"): "certainty picture",
    ("scoresde_core", "scoresde_run.data"): "dataset dequantizer units",
    ("scoresde_core", "scoresde_run.features"): "extractor",
    ("scoresde_core", "scoresde_run.models"): "classifier network",
    ("scoresde_core", "scoresde_run.sampling"): "condition",
    ("scoresde_core.models", "scoresde_run.models"): "checkpoint config model",
    ("scoresde_core.models", "scoresde_run.machine"): "document",
    ("scoresde_core.training", "scoresde_run.data"): "batches scale",
    ("scoresde_core.training", "scoresde_run.training"): "run state trainer",
    ("scoresde_core.cli", "scoresde_conformance"): "check",
    ("scoresde_core.cli", "scoresde_core"): "listing",
    ("scoresde_core.cli", "scoresde_run.results"): "digests fingerprint results rows",
    ("scoresde_core.cli", "scoresde_run.machine"): "environment lock",
    ("scoresde_core.cli", "scoresde_run.commands"): "events presets sample train",
    ("scoresde_core.conformance", "scoresde_conformance"): (
        "checkpoints components conditions correctors counterparts datasets dequantizers evaluators exact extractors "
        "grids losses networks predictors pytest_plugin samplers sdes suite targets test_components"
    ),
    ("scoresde_plugins.score_sde", "scoresde_plugins.song2021"): (
        "classification correctors losses predictors published_checkpoint reference samplers sdes"
    ),
    ("scoresde_plugins.score_sde", "scoresde_plugins.numerics"): "divergence encoding flow runge_kutta",
    ("scoresde_plugins.score_sde", "scoresde_plugins.likelihood"): "bits_per_dim density likelihood",
    ("scoresde_plugins.score_sde", "scoresde_plugins.commands"): "classifier_accuracy import_checkpoint",
    ("scoresde_plugins.score_flow", "scoresde_plugins.likelihood"): "bound",
    ("scoresde_plugins.dequantizers", "scoresde_plugins.commands"): "train_dequantizer",
    ("scoresde_plugins.ncsn", "scoresde_plugins.commands"): "tune_noise",
    ("scoresde_plugins.targets", "scoresde_plugins.commands"): "fit_target",
    ("scoresde_plugins.evaluators", "scoresde_plugins.commands"): "stats",
    ("scoresde_plugins.checkpoints", "scoresde_plugins.commands"): "export",
    ("scoresde_bench", "scoresde_bench.plan"): "suite sweep",
    ("scoresde_bench", "scoresde_bench.run"): "executor executors",
    ("scoresde_bench", "scoresde_bench.report"): "compare export ranking table",
}
MODULES = {
    **{f"{old}.{name}": f"{new}.{name}" for (old, new), names in _KEPT_NAME.items() for name in names.split()},
    "scoresde_core.cli": "scoresde_core.shell",
    "scoresde_core.cli.subject": "scoresde_run.commands.opened",
    "scoresde_core.models": "scoresde_run.models",
    "scoresde_core.training": "scoresde_run.training",
    "scoresde_core.conformance": "scoresde_conformance",
    "scoresde_plugins.score_sde": "scoresde_plugins.song2021",
    "scoresde_plugins.score_sde.measure_likelihood": "scoresde_plugins.commands.likelihood",
    "scoresde_plugins.score_sde.encode_events": "scoresde_plugins.commands.encode",
    "scoresde_plugins.evaluate.command": "scoresde_plugins.commands.evaluate",
    "scoresde_plugins.evaluate.choice": "scoresde_plugins.evaluate.checkpoints",
    "scoresde_plugins.evaluate.measures": "scoresde_plugins.evaluate.model_measures",
    "scoresde_plugins.evaluate.judgement": "scoresde_plugins.evaluate.sample_measures",
    "scoresde_plugins.evaluate.evaluation": "scoresde_plugins.evaluate.rows",
    "scoresde_bench.subjects": "scoresde_bench.plan.score_sources",
    "scoresde_bench.quoted": "scoresde_bench.report.published",
    "scoresde_bench.sources": "scoresde_bench.report.result_sets",
    "scoresde_plugins.evaluate.progress": "scoresde_run.machine.progress",
}
"""The old and the new name of every module that moved."""

_FORMER = (
    "Batch Batches Comparison Condition ConditionedSampler Config Dataset Dequantizer EventSet Evidence Extraction",
    "Extractor Features Model Network NetworkScore NoisyClassifier Observation Preprocessing Processes Reference",
    "Trainer TrainingRun plan_training",
)
_FUNCTIONS = {
    "scoresde_run.models.parameterisation": "PARAMETERISATIONS LABELS DISCRETE_LABELS",
    "scoresde_run.machine.device": "PRECISIONS",
    "scoresde_run.machine.document": "dump",
    "scoresde_run.sampling.samples": "diverged root_mean_square smallest_batch valueless FAR STRAY",
}
NAMES = dict.fromkeys(" ".join(_FORMER).split(), "scoresde") | {
    name: module for module, names in _FUNCTIONS.items() for name in names.split()
}
"""Former exports of ``scoresde_core``, and the module that exports them now."""


class _Alias(ModuleType):
    """An old module or package, whose names come from the new module and whose modules from :data:`MODULES`."""

    __path__: list[str] = []  # noqa: RUF012  # makes it a package

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(MODULES[self.__name__]), name)


class Moved:
    """Imports a module by its old name; it is the last finder, so other imports cost nothing more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name, else None."""
        return ModuleSpec(fullname, self) if fullname in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of the old name, with a warning that names the new one."""
        warn(spec.name, MODULES[spec.name])
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing; the new module is imported on first use of a name."""


def former(module: str, name: str) -> Any:
    """The name that ``module`` exported before, with a warning; ``AttributeError`` if it never did."""
    if name not in NAMES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn(f"{module}.{name}", f"{NAMES[name]}.{name}")
    return getattr(import_module(NAMES[name]), name)


def warn(old: str, new: str) -> None:
    """Warn at the line that uses the old name."""
    frame = sys._getframe()
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in (__package__, "importlib"):
        frame = frame.f_back
    message = f"{old} moved to {new}: the old name will go in the next version"
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, DeprecationWarning, frame.f_code.co_filename, frame.f_lineno, registry=registry)


def install() -> None:
    """Make old names importable."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
