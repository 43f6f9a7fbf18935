"""From what is asked for and a model's configuration to what is measured, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from scoresde_core import sampler as sampling
from scoresde_core.cli.results import Row
from scoresde_core.cli.rows import describe
from scoresde_core.components import Spec, parse
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError, UsageError
from scoresde_core.evaluator import Evaluator, Reference
from scoresde_core.models import checkpoint
from scoresde_core.models.checkpoint import Checkpoint
from scoresde_core.models.config import Config
from scoresde_core.models.model import Plan, plan_data, plan_model
from scoresde_core.registry import Registry
from scoresde_core.score import NetworkScore
from scoresde_core.training.trainer import plan_training

from ..score_sde.divergence import Trace
from ..score_sde.flow import Solver, check_t_min
from .choice import Wanted
from .measures import Draw, Judgement, Likelihood, Measure, Share, SplitLoss

_PARTS = ("predictor", "corrector", "grid")
"""Parameters of a sampler that are axes of a row."""


@attrs.frozen
class Request:
    """What is asked for; None is what the configuration says."""

    loss: bool = False
    likelihood: bool = False
    evaluators: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    target: str | None = None
    samples: int | None = None
    sampler: str | None = None
    split: Split | None = None
    events: int | None = None
    repeats: int | None = None
    dequantizer: str = "uniform"
    trace: Trace = "rademacher"
    probes: int | None = None
    tolerance: float = 1e-5
    t_min: float = 1e-5
    discrete: bool = False
    batch_size: int | None = None
    seed: int = 0
    weights: str | None = None
    dtype: str = "float32"
    changes: tuple[str, ...] = attrs.field(default=(), converter=tuple)

    @property
    def ema(self) -> bool | None:
        """Whether averaged weights are asked for, as :meth:`Checkpoint.load` takes it."""
        return None if self.weights is None else self.weights == "ema"


@attrs.frozen(eq=False)
class Planned:
    """What is measured of models of one configuration."""

    plan: Plan
    measures: list[Measure]
    names: Row
    """The axes of its rows."""
    versions: dict[str, str]
    """Of the plugins that it is made of."""

    @property
    def draw(self) -> Draw | None:
        """The samples, where there are any."""
        return next((measure for measure in self.measures if isinstance(measure, Draw)), None)

    @property
    def model(self) -> dict[str, Any]:
        """What a number depends on beside weights and measure."""
        about = {"network": describe(self.plan.network), "sde": describe(self.plan.sde), "shape": self.plan.shape}
        return {**about, "centered": self.plan.config.model.centered}


class Plans:
    """What is measured of checkpoints; a configuration is planned once, for a run's models share theirs."""

    def __init__(self, registry: Registry, request: Request, device: torch.device, download: bool = False) -> None:
        self.registry, self.request, self.device, self.download = registry, request, device, download
        self._last: tuple[Config, Planned] | None = None

    def open(self, folder: Path) -> tuple[Checkpoint, Planned]:
        """A checkpoint's index and what is measured of it; raises FileError where it cannot be read."""
        found = checkpoint.read(folder)
        found = attrs.evolve(found, config=found.config.override(self.request.changes))
        return found, self.of(found.config)

    def of(self, config: Config) -> Planned:
        """What is measured of a model of this configuration; raises where that cannot be."""
        if self._last is None or self._last[0] != config:
            self._last = config, plan_measures(config, self.registry, self.request, self.device, self.download)
        return self._last[1]

    def check(self, wanted: Wanted) -> None:
        """Raise what :meth:`of` raises, but not for a checkpoint that is damaged: that is for its row to say."""
        folder = wanted.find()
        try:
            config = checkpoint.read(folder).config if folder is not None else None
        except FileError:
            return
        if config is None and wanted.run is not None:
            config = wanted.run.config
        if config is not None:
            self.of(config.override(self.request.changes))


def plan_measures(
    config: Config, registry: Registry, request: Request, device: torch.device, download: bool
) -> Planned:
    """The measures that ``request`` names; without any name the loss, and what ``config.evaluation`` asks for."""
    planner = _Planner(config, registry, request, device, download)
    named = request.loss or request.likelihood or request.evaluators
    measures: list[Measure] = []
    if request.loss or not named:
        measures.append(planner.loss())
    if request.likelihood or (not named and config.evaluation.likelihood):
        measures.append(planner.likelihood())
    if request.evaluators:
        measures += planner.quality()
    model = config.model
    names: Row = {"target": request.target, "network": model.network.name, "sde": str(model.sde)}
    versions = planner.versions([("networks", model.network.name), ("sdes", model.sde.name)])
    sampled = any(isinstance(measure, Draw) for measure in measures)
    return Planned(planner.plan, measures, {**names, **(planner.axes() if sampled else {})}, versions)


class _Planner:
    """One configuration's measures."""

    def __init__(
        self, config: Config, registry: Registry, request: Request, device: torch.device, download: bool
    ) -> None:
        self.config, self.registry, self.request = config, registry, request
        self.device, self.download = device, download
        self.plan = plan_model(config, registry)
        self.spec = parse(request.sampler) if request.sampler else config.sampling.sampler
        self.sampler: sampling.Sampler = registry.create("samplers", self.spec)

    def loss(self) -> Measure:
        """The training loss, on the batches that training makes."""
        found = plan_training(self.config, self.registry, download=self.download)
        training = self.config.training
        if found.loss.needs:
            raise UsageError(
                f"the loss {training.loss} needs {', '.join(found.loss.needs)} of the events, which is not read here: "
                "the run's metrics.jsonl has its test loss"
            )
        size = self.request.batch_size or training.batch_size
        share = self._share(found.dataset, self.request.split or "test", size)
        preprocessing = attrs.evolve(found.preprocessing, flip=False)
        used = self.versions([("losses", training.loss.name), *self._data()])
        return SplitLoss(self.plan, found.loss, preprocessing, share, training.seed, used)

    def likelihood(self) -> Measure:
        """Bits per dimension."""
        request, chosen, network = self.request, self.config.evaluation, self.plan.network
        if not self._labelled().continuous and not request.discrete:
            raise UsageError(
                f"the network {self.config.model.network.name!r} knows {network.scales} noise scales, the likelihood "
                "follows an ODE through all levels: --discrete takes each level's nearest one"
            )
        dataset, _ = plan_data(self.plan, self.registry, self.download)
        share = self._share(dataset, request.split or chosen.split, request.batch_size or chosen.batch_size)
        dequantizer = self.registry.create("dequantizers", request.dequantizer)
        check_t_min(request.t_min)
        solver = Solver(rtol=request.tolerance, atol=request.tolerance)
        used = self.versions([("dequantizers", parse(request.dequantizer).name), *self._data()])
        return Likelihood(
            self.plan, share, dequantizer, request.repeats or chosen.repeats, request.trace, request.probes or 1,
            solver, request.t_min, request.seed, request.discrete, used,
        )  # fmt: skip

    def quality(self) -> list[Measure]:
        """Every evaluator's judgement, and the samples, unless all judge the model itself."""
        request, chosen = self.request, self.config.evaluation
        n = request.samples or chosen.samples
        reference = self._reference(n)
        evaluators = [(parse(text), self.registry.create("evaluators", text)) for text in request.evaluators]
        draw = self._draw(n) if any(evaluator.judges == "samples" for _, evaluator in evaluators) else None
        found = [self._judgement(spec, evaluator, n, draw, reference) for spec, evaluator in evaluators]
        return [*found] if draw is None else [draw, *found]

    def _draw(self, n: int) -> Draw:
        request, chosen = self.request, self.config.evaluation
        reason = sampling.skip(self.sampler, self.plan.sde, self.plan.shape)
        if reason:
            raise UsageError(reason)
        size = min(request.batch_size or chosen.batch_size, n)
        return Draw(self.plan, self.sampler, n, size, request.seed, self.versions([("samplers", self.spec.name)]))

    def _judgement(
        self, spec: Spec, evaluator: Evaluator, n: int, draw: Draw | None, reference: Reference | None
    ) -> Judgement:
        if "target" in evaluator.needs and reference is None:
            raise UsageError(f"the evaluator {spec} compares with an exact target: name it with --target")
        evaluator.prepare()
        samples = draw if evaluator.judges == "samples" else None
        used = self.versions([("evaluators", spec.name)])
        found = Judgement(self.plan, str(spec), evaluator, samples, n, self.request.seed, reference, used)
        reason = evaluator.skip(found.evidence(self._labelled(), found.blank(self.device)))
        if reason:
            raise UsageError(f"the evaluator {spec} cannot judge these samples: {reason}")
        evaluator.prepare()
        return found

    def _reference(self, n: int) -> Reference | None:
        """The truth, drawn once for all checkpoints of this configuration."""
        if self.request.target is None:
            return None
        target = self.registry.create("targets", self.request.target)
        if target.shape != self.plan.shape:
            raise UsageError(
                f"the model makes events of shape {list(self.plan.shape)}, the target {self.request.target} has "
                f"{list(target.shape)}: choose another --target"
            )
        target = target.to(self.device, getattr(torch, self.request.dtype))
        return Reference(target, n, self.request.seed, self.device)

    def axes(self) -> Row:
        """The sampler and its parts, as a row names them."""
        inside = self.spec.params
        rest = {name: value for name, value in inside.items() if name not in (*_PARTS, "steps")}
        parts = {name: str(inside[name]) if name in inside else None for name in _PARTS}
        steps = getattr(self.sampler, "steps", None) if "steps" in self.sampler.uses else None
        return {"sampler": str(Spec(self.spec.name, rest)), **parts, "steps": steps}

    def versions(self, components: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The plugins that these (kind, name) come from, with their versions."""
        owners = sorted({self.registry.find(kind, name).owner for kind, name in components})
        known = {status.owner: status.version for status in self.registry.statuses if status.state == "ok"}
        return {owner: known[owner] for owner in owners if owner in known}

    def _labelled(self) -> NetworkScore:
        """A stand-in for the model, which knows its noise levels."""
        network = self.plan.network
        return NetworkScore(nn.Identity(), self.plan.sde, label=network.label, scales=network.scales)

    def _data(self) -> list[tuple[str, str]]:
        spec = self.config.data.dataset
        return [] if spec is None else [("datasets", spec.name)]

    def _share(self, dataset: Dataset, split: Split, batch_size: int) -> Share:
        """The events of a split; fewer are spread evenly over it, for a stored order may be one class after another."""
        events = dataset.open(split)
        size = len(events)
        if not size:
            raise UsageError(f"the {split} split of {self.config.data.dataset} is empty: choose another --split")
        count = min(self.request.events or size, size)
        indices = [number * size // count for number in range(count)]
        return Share(events, indices, batch_size, {"dataset": str(self.config.data.dataset), "split": split})
