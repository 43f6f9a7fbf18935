"""Plans: the measures of a request and a model's configuration, checked before anything is computed."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn
from scoresde_core import OURS, Evaluator, Registry, Sampler, Spec, build, parse, skip
from scoresde_core.errors import FileError, ScoreSDEError, UsageError
from scoresde_run import Checkpoint, Config, Dataset, GuidedSampler, NetworkScore, Row, Split, plan_training
from scoresde_run.commands.events import subset, take
from scoresde_run.commands.known import known_of, read_classes
from scoresde_run.data.evidence import Reference
from scoresde_run.models import checkpoint
from scoresde_run.models.known import check, wanted
from scoresde_run.models.model import Model, plan_data, plan_model
from scoresde_run.results.fingerprint import Depends, Fingerprint, placeless
from scoresde_run.sampling.samples import root_mean_square
from ..evaluators.feature_metric import samples as sample_set
from ..likelihood.likelihood import FlowDensity, trained_t_min
from .checkpoints import ChosenCheckpoint
from .measure import Measure, Share
from .measures import Draw, FeatureBatches, Judgement, Key, SplitLikelihood, SplitLoss

_PARTS = ("predictor", "corrector", "grid")  # parameters of a sampler that are axes of a row
_TRUE_EVENTS = 256  # number of events of a data set that determine its scale
_ASKED = (
    "loss likelihood evaluators target samples sampler split events repeats dequantizer trace probes tolerance t_min "
    "discrete batch_size seed weights dtype changes"
)
"""The options that identify a row; later ones are added where they have an effect."""


class Planner:
    """Plans the measures of checkpoints by the options ``request`` (None: as configured), equal ones once."""

    def __init__(self, registry: Registry, request: Namespace, device: torch.device) -> None:
        self.registry, self.request, self.device = registry, request, device
        self.ema = None if request.weights is None else request.weights == "ema"
        self.lowered = {} if request.precision == "float32" else {"precision": request.precision}
        later = {name: getattr(request, name) for name in ("known", "guidance") if getattr(request, name)}
        self.asked = {**{name: getattr(request, name) for name in _ASKED.split()}, **later, **self.lowered}
        self._last: tuple[Config, EvaluationPlan] | None = None

    def open(self, chosen: ChosenCheckpoint, folder: Path) -> "tuple[Checkpoint, EvaluationPlan]":
        """Read a checkpoint's index and plan its measures; raises FileError if it cannot be read."""
        found = chosen.own or checkpoint.read(folder)
        planned = self.of(found.config)
        return attrs.evolve(found, config=planned.config), planned

    def of(self, config: Config) -> "EvaluationPlan":
        """The measures of a model of this configuration, with the changes; raises if they are impossible."""
        config = config.clear(self.registry, [OURS]).override(self.request.changes)
        if self._last is None or self._last[0] != config:
            self._last = config, EvaluationPlan(config, self)
        return self._last[1]

    def expected(self, chosen: ChosenCheckpoint) -> "EvaluationPlan | None":
        """The measures of ``chosen``, by its run's configuration if it is damaged or missing; None if none is known."""
        folder, config = chosen.find(), chosen.run.config if chosen.run is not None else None
        with suppress(FileError):
            config = (chosen.own or checkpoint.read(folder)).config if folder is not None else config
        return None if config is None else self.of(config)


class EvaluationPlan:
    """The measures of models of one configuration: those asked for, else the loss and those that it names."""

    def __init__(self, config: Config, planner: Planner) -> None:
        self.config, self.registry, self.request = config, planner.registry, planner.request
        self.device = planner.device
        self.fingerprint = Fingerprint(self.registry)
        self.plan = plan_model(config, self.registry)
        self.stand_in: NetworkScore = Model(self.plan, nn.Identity()).score()
        """A model with the noise levels of all, that takes what they take."""
        asked, model = self.request, config.model
        self.spec = parse(asked.sampler) if asked.sampler else config.sampling.sampler
        self.sampler: Sampler = self.registry.create("samplers", self.spec)
        if asked.guidance:
            self.sampler = GuidedSampler(self.sampler, self.registry.create("guidances", asked.guidance))
        named = asked.loss or asked.likelihood or asked.evaluators
        self.stages: list[Sequence[Measure]] = [[self.loss()]] if asked.loss or not named else []
        """Measures by stage; those of a stage need batches of earlier stages only."""
        if asked.likelihood or (not named and config.evaluation.likelihood):
            self.stages.append([self.likelihood()])
        self.stages += self.quality() if asked.evaluators else []
        self.measures = [measure for stage in self.stages for measure in stage]
        self.names: Row = {"target": asked.target, "network": model.network.name, "sde": str(model.sde)}
        """The axes of its rows."""
        for draw in (measure for measure in self.measures if isinstance(measure, Draw)):
            self.names |= self.axes(draw)

    @cached_property
    def model(self) -> dict[str, Any]:
        """What a number depends on besides the weights and the measure."""
        parts = {"network": self.plan.network, "sde": self.plan.sde, "model": attrs.asdict(self.plan.config.model)}
        parts["units"] = attrs.asdict(self.plan.units)
        return {**self.fingerprint.describe(parts), **placeless(self.fingerprint.depends(parts))}

    @cached_property
    def depends(self) -> Depends:
        """The versions, source and files of all components."""
        parts = [measure.parts for measure in self.measures]
        return self.fingerprint.depends(self.plan.network, self.plan.sde, parts)

    def loss(self) -> Measure:
        """The training loss, on batches as in training."""
        found = plan_training(self.config, self.registry, download=self.request.download)
        training = self.config.training
        if found.loss.needs:
            needs = f"needs {', '.join(found.loss.needs)}, which is not read here"
            raise UsageError(f"the loss {training.loss} {needs}: see the test loss in the run's metrics.jsonl")
        size = self.request.batch_size or training.batch_size
        share = self._share(found.dataset, self.request.split or "test", size)
        preprocessing = attrs.evolve(found.preprocessing, flip=False)
        used = self._of(found.loss, preprocessing, share.unread(found.dataset))
        return SplitLoss(share, self.plan.sde, found.loss, preprocessing, training.seed, **used)

    def likelihood(self) -> Measure:
        """Bits per dimension."""
        request, chosen = self.request, self.config.evaluation
        t_min = trained_t_min(self.plan, self.registry) if request.t_min is None else request.t_min
        how = {"trace": request.trace, "probes": request.probes or 1, "t_min": t_min, "discrete": request.discrete}
        how |= dict.fromkeys(("rtol", "atol"), request.tolerance)
        density = build(FlowDensity, how, "the likelihood")
        density.check(self.stand_in)
        dataset, _ = plan_data(self.plan, self.registry, self.request.download)
        share = self._share(dataset, request.split or chosen.split, request.batch_size or chosen.batch_size)
        dequantizer = self.registry.create("dequantizers", request.dequantizer or f"{OURS}:uniform")
        return SplitLikelihood(
            share, self.plan.sde, density, dequantizer, request.repeats or chosen.repeats, request.seed,
            self.plan.units, **self._of(density, dequantizer, share.unread(dataset)),
        )  # fmt: skip

    def quality(self) -> list[Sequence[Measure]]:
        """Samples (unless all evaluators judge the model itself), then features, then judgements."""
        request = self.request
        n = request.samples or self.config.evaluation.samples
        reference = self._reference(n)
        evaluators = [(parse(text), self.registry.create("evaluators", text)) for text in request.evaluators]
        drawn = any(evaluator.judges == "samples" for _, evaluator in evaluators)
        draw = self._draw(n, partial(self._scale, reference)) if drawn else None
        features: dict[Key, FeatureBatches] = {}
        found = [self._judgement(spec, evaluator, n, draw, reference, features) for spec, evaluator in evaluators]
        # The features of a subset are taken from those of the whole set, if these are read too.
        shared = {key: features.get((key[0], key[1].whole or key[1]), made) for key, made in features.items()}
        judgements = [attrs.evolve(each, features={key: shared[key] for key in each.features}) for each in found]
        extracted = [made for key, made in features.items() if shared[key] is made]
        return [stage for stage in ([draw] if draw else [], extracted, judgements) if stage]

    def _draw(self, n: int, scale: Callable[[], float | None]) -> Draw:
        request, chosen = self.request, self.config.evaluation
        told = {name: value.to(self.device) for name, value in read_classes(request.known, self.stand_in).items()}
        seen = self.stand_in.given(**told)
        if reason := skip(self.sampler, self.plan.sde, self.plan.shape) or self.sampler.skip_model(seen):
            raise UsageError(reason)
        seen.informed(len(next(iter(told.values()), [])), 0, 0)
        size = min(request.batch_size or chosen.batch_size, n)
        return Draw(self.plan, self.sampler, n, size, request.seed, cache(scale), told, **self._of(self.sampler))

    def _scale(self, reference: Reference | None) -> float | None:
        """The root mean square of the target's or the model's true events, in the units of the data."""
        if reference is not None:
            return reference.once("scale", lambda: root_mean_square(reference.exact(0)))
        with suppress(ScoreSDEError):  # the data may be missing
            dataset, _ = plan_data(self.plan, self.registry)
            events, units = dataset.open("train"), self.plan.units
            stored = take(events, subset(len(events), _TRUE_EVENTS))
            return root_mean_square(units.decode(units.encode(stored)))
        return None

    def _judgement(
        self, spec: Spec, evaluator: Evaluator, n: int, draw: Draw | None, reference: Reference | None,
        features: dict[Key, FeatureBatches],
    ) -> Judgement:  # fmt: skip
        """An evaluator's judgement; the features that it reads are added to ``features``."""
        if "target" in evaluator.needs and reference is None:
            raise UsageError(f"the evaluator {spec} compares with an exact target: give --target")
        evaluator.prepare()
        samples = draw if evaluator.judges == "samples" else None
        used = self._of(evaluator, None if reference is None else reference.target)
        found = Judgement(self.plan, str(spec), evaluator, samples, n, self.request.seed, reference, **used)
        evidence = found.evidence(self.stand_in, self.device)
        if reason := evaluator.skip(evidence):
            raise UsageError(f"the evaluator {spec} cannot judge these samples: {reason}")
        read: dict[Key, FeatureBatches] = {}
        of_samples = sample_set(evidence)
        for extraction, events in evaluator.reads(evidence):
            if events == of_samples and samples is None:
                raise UsageError(f"the evaluator {spec} judges the model, so it cannot read features of samples")
            source = samples if events == of_samples else None
            made = FeatureBatches(extraction, events, source, **self._of(extraction.extractor))
            same = read[extraction, events] = features.setdefault((extraction, events), made)
            if {**same.protocol, "batch_size": 0} != {**made.protocol, "batch_size": 0}:
                raise UsageError(f"two evaluators mean different things by {made.title}: change the label in {spec}")
        told = {"features": [each.protocol for each in read.values()]} if read else {}
        state = evaluator.depends_on(evidence)
        if taken := state.keys() & (found.protocol | told).keys():
            raise UsageError(f"depends_on of the evaluator {spec} uses the reserved name {min(taken)}: rename it")
        return attrs.evolve(found, features=read, state={**state, **told})

    def _reference(self, n: int) -> Reference | None:
        if self.request.target is None:
            return None
        target = self.registry.create("targets", self.request.target)
        if target.shape != self.plan.shape:
            given = f"the target {self.request.target} has {list(target.shape)}: choose another --target"
            raise UsageError(f"the model makes events of shape {list(self.plan.shape)}, {given}")
        target = target.to(self.device, getattr(torch, self.request.dtype))
        return Reference(target, n, self.request.seed, self.device)

    def axes(self, draw: Draw) -> Row:
        """The row's axes of the sampler, its parts and the samples."""
        inside = self.spec.params
        rest = {name: value for name, value in inside.items() if name not in (*_PARTS, "steps")}
        sampler: Sampler = getattr(self.sampler, "sampler", self.sampler)  # inside its guidance
        parts = {name: str(inside[name]) if name in inside else None for name in _PARTS}
        if parts["grid"] is None and "grid" in sampler.uses:
            grid = getattr(sampler, "grid", None)
            parts["grid"] = None if grid is None else str(self.registry.typed(grid) or grid)
        steps = getattr(sampler, "steps", None) if "steps" in sampler.uses else None
        numbers = {"steps": steps, "samples": draw.n, "batch_size": draw.batch_size}
        told = {"known": " ".join(self.request.known) or None, "guidance": self.request.guidance}
        return {"sampler": str(Spec(self.spec.name, rest)), **parts, **numbers, **told}

    def _of(self, *parts: Any) -> dict[str, Any]:
        return {"parts": parts, "fingerprint": self.fingerprint}

    def _share(self, dataset: Dataset, split: Split, batch_size: int) -> Share:
        events = dataset.open(split)
        if not len(events):
            raise UsageError(f"the {split} split of {self.config.data.dataset} is empty: choose another --split")
        source = {"dataset": str(self.config.data.dataset), "split": split}
        share = Share(events, self.request.events, batch_size, source)
        rows, plan = torch.as_tensor(share.indices), self.plan
        names = wanted(self.stand_in)
        known = {name: plan.units.beside(known_of(dataset, name, split)[rows], plan.shape) for name in names}
        check(self.stand_in, known, f"{dataset}")
        share.tell({name: value.to(self.device) for name, value in known.items()})
        return share
