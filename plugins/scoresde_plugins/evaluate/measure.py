"""What a measure is: batches, and what they make of a row. Batch k is a function of weights, settings and k alone."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.dataset import Dataset, Events, content_hash
from scoresde_core.evaluator import Metric
from scoresde_core.sampler import Observer
from scoresde_core.score import ScoreModel
from scoresde_run.commands.events import subset, take
from scoresde_run.results.fingerprint import Fingerprint, placeless
from scoresde_run.results.results import Row

from .parts import Part, Parts


@attrs.frozen(eq=False)
class MeasuredModel:
    """A model that is measured: its score on a device, all that it depends on, and the folder of its parts."""

    score: ScoreModel
    device: torch.device
    dtype: torch.dtype
    identity: Mapping[str, Any]
    """Weights, network, SDE and what these depend on, as plain data."""
    folder: Path
    observe: Observer | None = None

    def parts_of(self, measure: Measure) -> Parts:
        """The batches of ``measure``, those of a reference whatever the model."""
        about = dict(self.identity) if measure.of_model else {}
        about |= {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}
        return Parts(self.folder, measure.name, {"model": about, "settings": measure.settings})


@attrs.frozen(eq=False)
class Measure(ABC):
    """One thing that is measured of a model."""

    name: ClassVar[str]

    fingerprint: Fingerprint = attrs.field(kw_only=True)
    parts: tuple[Any, ...] = attrs.field(kw_only=True)
    """The components that it is made of, beside the model."""

    @property
    def title(self) -> str:
        """What tells it from the others of a row."""
        return self.name

    @property
    def of_model(self) -> bool:
        """Whether the numbers depend on the model."""
        return True

    @property
    def of_samples(self) -> bool:
        """Whether its metrics say how good samples are: a row where none of these is a number is not done."""
        return False

    @property
    @abstractmethod
    def count(self) -> int:
        """How many batches there are."""

    @property
    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """All that the numbers depend on beside the model and :attr:`parts`, as plain data."""

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol, and what the components depend on: versions, source, files."""
        return {**self.protocol, **placeless(self.fingerprint.depends(self.parts))}

    def describe(self, component: Any) -> Any:
        """A component as plain data."""
        return self.fingerprint.describe(component)

    def compute(self, k: int, model: MeasuredModel) -> Part:
        """Batch ``k``, with the seconds that it took."""
        started = time.perf_counter()
        part = self.measure(k, model)
        part.record.setdefault("seconds", time.perf_counter() - started)
        return part

    @abstractmethod
    def measure(self, k: int, model: MeasuredModel) -> Part:
        """Batch ``k``."""

    @abstractmethod
    def summarise(self, parts: Iterable[Part]) -> Row:
        """What all batches together add to a row."""

    def found(self, metrics: Sequence[Metric], records: Iterable[Mapping[str, Any]], **cost: Any) -> Row:
        """Metrics as a row holds them, and what they cost."""
        cost["seconds"] = sum(float(record["seconds"]) for record in records)
        return {"metrics": {m.name: m.plain() for m in metrics}, "costs": {self.title: cost}}


@attrs.frozen(eq=False)
class Share:
    """The events that are measured, at ``indices`` of a split, in batches; ``source`` names them in the settings."""

    events: Events
    indices: Sequence[int]
    batch_size: int
    source: dict[str, Any]

    @classmethod
    def of(cls, events: Events, count: int | None, batch_size: int, source: Mapping[str, Any]) -> Share:
        """``count`` of ``events`` (None: all), spread evenly over them; their hash, where they are in memory."""
        indices = subset(len(events), count)
        if isinstance(events, Tensor):
            chosen = events if len(indices) == len(events) else take(events, indices)
            source = {**source, "hash": content_hash(chosen)}
        return cls(events, indices, batch_size, dict(source))

    def unread(self, dataset: Dataset | None) -> Dataset | None:
        """The data set, where nothing but its source and its files says what the events are: there is no hash."""
        return None if "hash" in self.source else dataset

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-len(self.indices) // self.batch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """What the events of a batch depend on."""
        return {**self.source, "of": len(self.events), "events": len(self.indices), "batch_size": self.batch_size}

    def batch(self, k: int) -> tuple[int, Tensor]:
        """The position of its first event, and the events (n, ...) as stored."""
        first = k * self.batch_size
        return first, take(self.events, self.indices[first : first + self.batch_size])


@attrs.frozen(eq=False)
class OfEvents(Measure):
    """A measure of the events in a share."""

    share: Share

    @property
    def count(self) -> int:
        """How many batches there are."""
        return self.share.count

    @property
    def settings(self) -> dict[str, Any]:
        """With the events."""
        return {**super().settings, **self.share.settings}


def mean(name: str, values: Tensor, unit: str = "") -> Metric:
    """The mean of float64 ``values`` (n,) and its standard error."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Metric(name, float(values.mean()), error, unit=unit, df=len(values) - 1)
