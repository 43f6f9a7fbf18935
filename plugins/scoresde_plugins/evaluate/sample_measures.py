"""Measures of samples: their features, and evaluators' judgements.

An evaluator needs all samples at once, so its judgement is one batch on one process. The slow part of most evaluators,
the features, is computed in batches before that: of the samples, and of the true events that they are compared with,
once for all evaluators that use the same extractor. All checkpoints share the features of true events.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import Evaluator, Metric, ScoreModel, UsageError
from scoresde_run import EventSet, Evidence, Extraction, Features, Plan, Reference, Row
from scoresde_run.data.dataset import content_hash
from .measure import Measure, MeasuredModel
from .model_measures import Draw
from .parts import Part

Key = tuple[Extraction, EventSet]
"""How features are extracted, and from which events."""


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
    def key(self) -> Key:
        """The identity of these features."""
        return self.extraction, self.events

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
        how = {**self.extraction.protocol, "extractor": self.describe(self.extraction.extractor)}
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


@attrs.frozen(eq=False)
class StoredFeatures:
    """Stored features, read batch by batch at each iteration, or their ``rows`` at once."""

    batches: FeatureBatches
    model: MeasuredModel
    rows: Callable[[], Tensor] | None = None

    def __iter__(self) -> Iterator[Features]:
        kept = self.model.parts_of(self.batches).all(self.batches.count)
        if self.rows is not None:
            parts, rows = list(kept), self.rows()
            names = parts[0].tensors
            kept = iter([Part({name: torch.cat([part.tensors[name] for part in parts])[rows] for name in names})])
        for part in kept:
            yield Features(**{name: value.to(self.model.device) for name, value in part.tensors.items()})


@attrs.frozen(eq=False)
class Judgement(Measure):
    """An evaluator's metrics of the samples or, if ``draw`` is None, of the model itself."""

    name: ClassVar[str] = "judgement"

    plan: Plan
    written: str
    """The evaluator as typed."""
    evaluator: Evaluator
    draw: Draw | None
    n: int
    seed: int
    reference: Reference | None
    features: Mapping[Key, FeatureBatches] = attrs.field(factory=dict)
    """The features that it reads; for a subset, those of the whole set."""
    state: Mapping[str, Any] = attrs.field(factory=dict)
    """Its declared dependencies, and the protocols of its features."""

    @property
    def title(self) -> str:
        return f"{self.name} {self.written}"

    @property
    def of_samples(self) -> bool:
        return self.draw is not None

    @property
    def count(self) -> int:
        """1, because it needs all samples at once."""
        return 1

    @property
    def protocol(self) -> dict[str, Any]:
        truth = None if self.reference is None else self.describe(self.reference.target)
        samples = {"n": self.n, "seed": self.seed} if self.draw is None else self.draw.settings
        said = self.describe(self.state)
        return {"samples": samples, "evaluator": self.describe(self.evaluator), "target": truth, **said}

    def evidence(self, score: ScoreModel, samples: Tensor, dtype: torch.dtype | None = None) -> Evidence:
        """The evidence for the evaluator; ``dtype`` is the model's."""
        units = self.plan.units
        return Evidence(samples, self.seed, model=score, reference=self.reference, units=units, dtype=dtype)

    def blank(self, device: torch.device) -> Tensor:
        """A tensor of zeros in the shape of all samples, expanded from one."""
        return torch.zeros(1, *self.plan.shape, device=device).expand(self.n, *self.plan.shape)

    def measure(self, k: int, model: MeasuredModel) -> Part:
        samples = self.blank(model.device) if self.draw is None else self.draw.collect(model)
        evidence = self.evidence(model.score, samples, model.dtype)
        for key, batches in self.features.items():
            rows = None if batches.key == key else key[1].rows
            evidence.once(key, partial(StoredFeatures, batches, model, rows))
        reason = self.evaluator.skip(evidence)
        found = [] if reason else self.evaluator.evaluate(evidence)
        return Part({}, {"metrics": [attrs.asdict(metric) for metric in found], "skipped": reason})

    def summarise(self, parts: Sequence[Part]) -> Row:
        (part,) = parts
        row = self.found([Metric(**metric) for metric in part.record["metrics"]], parts)
        skipped = part.record["skipped"]
        return {**row, "metrics_skipped": {self.written: skipped}} if skipped else row
