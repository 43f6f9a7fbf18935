r"""The measures: of a model alone (loss, likelihood, samples), of features, and evaluators' judgements.

    loss        the configuration's training loss of every event, at times and noise keyed by (seed, batch, row); with
                the seed and batch size of training, this is the evaluation_loss that training logs
    likelihood  bits per dimension of every event and repeat; noise and probes keyed by (seed, repeat, event)
    samples     draws of the sampler, keyed by (seed, index of the sample)

Events of a batch are coupled only by an ODE's error norm or a corrector's mean norms. So the batch size is a setting,
and the number of processes is not. An evaluator needs all samples at once, so its judgement is one batch. The features
that most need are computed in batches before, of samples and of the true events, once for all evaluators with the same
extractor; all checkpoints share those of true events.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Draws, Evaluator, Loss, Metric, Sampler, ScoreModel, Target, sample
from scoresde_core.errors import ScoreSDEError, UsageError
from scoresde_run import Dequantizer, EventSet, Evidence, Extraction, Features, Plan, Preprocessing, Reference, Units
from scoresde_run.data.dataset import content_hash
from scoresde_run.results.results import Row
from scoresde_run.sampling.samples import diverged, smallest_batch
from ..evaluators.feature_metric import Extracted
from ..likelihood.bits_per_dim import Measurement, join, measure
from ..likelihood.likelihood import Density
from .measure import EventMeasure, Measure, MeasuredModel, Part, mean

Key = tuple[Extraction, EventSet]  # how features are extracted, and from which events


@attrs.frozen(eq=False)
class SplitLoss(EventMeasure):
    """The training loss of the events of a split, as evaluated during training."""

    name, stated = "loss", ("loss", "preprocessing", "seed")

    sde: SDE
    loss: Loss
    preprocessing: Preprocessing
    seed: int

    @torch.no_grad()
    def measure(self, k: int, model: MeasuredModel) -> Part:
        _, events = self.share.batch(k)

        def draws(step: str) -> Draws:
            return Draws(self.seed, step, len(events), total=self.share.batch_size, device=model.device)

        x = self.preprocessing(events.to(model.device), draws(f"pass {k}")).to(model.dtype)
        losses = self.loss.per_sample(self.share.told(model.score, k), x, draws(f"evaluation {k}"))
        return Part({"loss": losses.double().cpu()})

    def summarise(self, parts: Sequence[Part]) -> Row:
        losses = torch.cat([part.tensors["loss"] for part in parts])
        return self.found([mean(f"{self.share.source['split']}_loss", losses)], parts, events=len(losses))


@attrs.frozen(eq=False)
class SplitLikelihood(EventMeasure):
    """Bits per dimension under a density; images are dequantised, points are not."""

    name, stated = "likelihood", ("density", "dequantizer", "repeats", "draws", "seed", "target", "latents")

    sde: SDE
    density: Density
    dequantizer: Dequantizer
    repeats: int
    seed: int
    units: Units  # the model's units, to convert its bits to those of the data
    target: Target | None = None  # an exact target on the CPU, whose own bits are measured too
    latents: bool = False  # whether to keep the latents
    draws: int = 1  # of dequantisation noise, over which each repeat averages the probability

    @property
    def protocol(self) -> dict[str, Any]:
        return {**super().protocol, "units": attrs.asdict(self.units)}

    def measure(self, k: int, model: MeasuredModel) -> Part:
        first, events = self.share.batch(k)
        exact = None if self.target is None else partial(_log_prob, self.target.to("cpu", torch.float64))
        found = measure(
            self.density, self.share.told(model.score, k), events.to(model.device),
            repeats=self.repeats, draws=self.draws, seed=self.seed, first=first, exact=exact, units=self.units,
            dequantizer=self.dequantizer, dtype=model.dtype,
        ).tensors  # fmt: skip
        if not bool(found["values"].isfinite().all()):
            raise ScoreSDEError(f"bits/dim are not finite from event {self.share.indices[first]} on")
        return Part({name: value.cpu() for name, value in found.items() if self.latents or name != "latent"})

    def joined(self, parts: Sequence[Part]) -> Measurement:
        """Concatenate the measurements of all batches."""
        return join([Measurement(**part.tensors) for part in parts])

    def summarise(self, parts: Sequence[Part]) -> Row:
        all_of_it = self.joined(parts)
        cost = {"events": all_of_it.nfe.shape[1], "nfe": float(all_of_it.nfe.double().mean())}
        return self.found([mean("bits_per_dim", all_of_it.bits.per_image, "bits/dim")], parts, **cost)


def _log_prob(precise: Target, x: Tensor) -> Tensor:
    return precise.log_prob(x.cpu().double()).to(x.device)


@attrs.frozen(eq=False)
class Draw(Measure):
    """Samples, kept for all evaluators."""

    name, stated = "samples", ("sampler", "n", "batch_size", "seed", "known")

    plan: Plan
    sampler: Sampler
    n: int
    batch_size: int
    seed: int
    scale: Callable[[], float | None] = lambda: None
    """Returns the root mean square of true events, in the units of the data, None if unknown."""
    known: Mapping[str, Tensor] = {}  # what is known of samples, in turn

    @property
    def count(self) -> int:
        return -(-self.n // self.batch_size)

    def measure(self, k: int, model: MeasuredModel) -> Part:
        first = k * self.batch_size
        count = min(self.batch_size, self.n - first)
        rows = torch.arange(first, first + count)
        score = model.score.given(**{name: value[rows % len(value)] for name, value in self.known.items()})
        drawn = sample(
            score, self.sampler, count,
            seed=self.seed, first=first, device=model.device, dtype=model.dtype, observe=model.observe,
        )  # fmt: skip
        return Part({"x": drawn.x.cpu()}, {"nfe": drawn.nfe, "seconds": drawn.seconds})

    def summarise(self, parts: Sequence[Part]) -> Row:
        nfe = sum(part.record["nfe"] * len(part.tensors["x"]) for part in parts)
        if lost := diverged(self.plan.units.decode(torch.cat([part.tensors["x"] for part in parts])), self.scale()):
            raise ScoreSDEError(lost)
        found = self.found([], parts, events=self.n, nfe=nfe / self.n)
        seconds = found["costs"][self.title]["seconds"]
        speed = {"seconds": seconds, "samples_per_second": self.n / seconds if seconds else None}
        caveat = self.sampler.caveat(self.plan.shape, smallest_batch(self.n, self.batch_size))
        warnings = {} if caveat is None else {"warnings": {"batch": caveat}}
        return {"nfe": nfe / self.n, **speed, **found, **warnings}

    def events(self, k: int, model: MeasuredModel) -> Tensor:
        """The samples of batch ``k``, in the units of the data."""
        return self.plan.units.decode(model.parts_of(self).load(k).tensors["x"].to(model.device))


@attrs.frozen(eq=False)
class FeatureBatches(Measure):
    """The features of the samples of ``draw`` or, if it is None, of true ``events``."""

    name: ClassVar[str] = "features"

    extraction: Extraction
    events: EventSet
    draw: Draw | None = None

    @property
    def title(self) -> str:
        rounded = " rounded down" * (self.extraction.rounding == "floor")
        return f"{self.name} {self.extraction.extractor!r} of {' '.join(map(str, self.events.label))}{rounded}"

    @property
    def of_model(self) -> bool:
        return self.draw is not None

    @property
    def count(self) -> int:
        return -(-self.events.size // self.extraction.batch_size) if self.draw is None else self.draw.count

    @property
    def protocol(self) -> dict[str, Any]:
        if self.draw is not None:
            events = self.draw.settings
        else:
            digest = self.events.once(("hash", self.events), lambda: content_hash(self._loaded()))
            events = {"set": list(self.events.label), "hash": digest}
        how = {**self.extraction.protocol, "extractor": self.fingerprint.describe(self.extraction.extractor)}
        return {**how, "events": events, "batch_size": self.extraction.batch_size}

    def _loaded(self) -> Tensor:
        events = self.events.once(("events", self.events), self.events.load)
        if len(events) != self.events.size:
            known = f"the set has {len(events)} events, but states {self.events.size}"
            raise UsageError(f"{self.title}: {known}: correct its size")
        return events

    def measure(self, k: int, model: MeasuredModel) -> Part:
        if self.draw is None:
            size = self.extraction.batch_size
            events = self._loaded()[k * size : (k + 1) * size]
        else:
            events = self.draw.events(k, model)
        batches = list(self.extraction(events, model.device))
        tensors = {"pooled": torch.cat([batch.pooled for batch in batches])}
        logits = [batch.logits for batch in batches if batch.logits is not None]
        return Part(tensors | ({"logits": torch.cat(logits)} if logits else {}))

    def summarise(self, parts: Sequence[Part]) -> Row:
        return self.found([], parts, events=self.events.size)


def _stored(batches: FeatureBatches, model: MeasuredModel, rows: Callable[[], Tensor] | None) -> Iterator[Features]:
    """Stored features, read batch by batch, or their ``rows`` at once."""
    kept = model.parts_of(batches).all(batches.count)
    if rows is not None:
        parts, chosen = list(kept), rows()
        kept = iter([Part({n: torch.cat([part.tensors[n] for part in parts])[chosen] for n in parts[0].tensors})])
    for part in kept:
        yield Features(**{name: value.to(model.device) for name, value in part.tensors.items()})


@attrs.frozen(eq=False)
class Judgement(Measure):
    """An evaluator's metrics of the samples or, if ``draw`` is None, of the model itself."""

    name: ClassVar[str] = "judgement"
    count = 1  # it needs all samples at once

    plan: Plan
    written: str  # the evaluator as typed
    evaluator: Evaluator
    draw: Draw | None
    n: int
    seed: int
    reference: Reference | None
    features: Mapping[Key, FeatureBatches] = attrs.field(factory=dict)
    """The features that it reads; for a subset, those of the whole set."""
    state: Mapping[str, Any] = attrs.field(factory=dict)  # its declared dependencies, and the protocols of its features

    @property
    def title(self) -> str:
        return f"{self.name} {self.written}"

    @property
    def protocol(self) -> dict[str, Any]:
        truth = None if self.reference is None else self.fingerprint.describe(self.reference.target)
        samples = {"n": self.n, "seed": self.seed} if self.draw is None else self.draw.settings
        said = self.fingerprint.describe(self.state)
        return {"samples": samples, "evaluator": self.fingerprint.describe(self.evaluator), "target": truth, **said}

    def evidence(
        self, score: ScoreModel, device: torch.device, samples: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Evidence:
        """Evidence for the evaluator, with zeros for ``samples`` unless they are given; ``dtype`` is the model's."""
        if samples is None:
            samples = torch.zeros(1, *self.plan.shape, device=device).expand(self.n, *self.plan.shape)
        units = self.plan.units
        return Evidence(samples, self.seed, model=score, reference=self.reference, units=units, dtype=dtype)

    def measure(self, k: int, model: MeasuredModel) -> Part:
        samples = None if self.draw is None else torch.cat([self.draw.events(k, model) for k in range(self.draw.count)])
        evidence = self.evidence(model.score, model.device, samples, model.dtype)
        for key, batches in self.features.items():
            rows = None if batches.events == key[1] else key[1].rows
            evidence.once(key, partial(Extracted, partial(_stored, batches, model, rows)))
        reason = self.evaluator.skip(evidence)
        found = [] if reason else self.evaluator.evaluate(evidence)
        return Part({}, {"metrics": [attrs.asdict(metric) for metric in found], "skipped": reason})

    def summarise(self, parts: Sequence[Part]) -> Row:
        (part,) = parts
        row = self.found([Metric(**metric) for metric in part.record["metrics"]], parts)
        skipped = part.record["skipped"]
        return {**row, "metrics_skipped": {self.written: skipped}} if skipped else row
