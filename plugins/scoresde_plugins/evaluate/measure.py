"""Measures: computed in batches, then summarised in a row. Batch k is a function of weights, settings and k alone."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import Metric, Observer, ScoreModel
from scoresde_run.commands.events import subset, take
from scoresde_run.data.dataset import Dataset, Events, content_hash
from scoresde_run.results.fingerprint import Fingerprint, placeless
from scoresde_run.results.results import Row
from .parts import Part, Parts


@attrs.frozen(eq=False)
class MeasuredModel:
    """A model to measure: its score on a device, its dependencies, and the folder of its parts."""

    score: ScoreModel
    device: torch.device
    dtype: torch.dtype
    identity: Mapping[str, Any]
    """Weights, network, SDE and their dependencies, as plain data."""
    folder: Path
    observe: Observer | None = None

    def parts_of(self, measure: Measure) -> Parts:
        """The batches of ``measure``; those of a reference do not depend on the model."""
        about = dict(self.identity) if measure.of_model else {}
        about |= {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}
        return Parts(self.folder, measure.name, {"model": about, "settings": measure.settings})


@attrs.frozen(eq=False)
class Measure(ABC):
    """One quantity that is measured of a model."""

    name: ClassVar[str]
    stated: ClassVar[Sequence[str]] = ()
    """The fields of :attr:`protocol`."""

    fingerprint: Fingerprint = attrs.field(kw_only=True)
    parts: tuple[Any, ...] = attrs.field(kw_only=True)
    """The components that it uses besides the model."""

    @property
    def title(self) -> str:
        """Its unique name in a row."""
        return self.name

    @property
    def of_model(self) -> bool:
        """Whether the numbers depend on the model."""
        return True

    @property
    def of_samples(self) -> bool:
        """Whether its metrics are of samples: a row in which none of these is a number has failed."""
        return False

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of batches."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on besides the model and :attr:`parts`, as plain data."""
        return {name: self.describe(getattr(self, name)) for name in self.stated}

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol, and the versions, source and files of the components."""
        return {**self.protocol, **placeless(self.fingerprint.depends(self.parts))}

    def describe(self, component: Any) -> Any:
        """Describe a component as plain data."""
        return self.fingerprint.describe(component)

    def compute(self, k: int, model: MeasuredModel) -> Part:
        """Measure batch ``k`` and record its seconds."""
        started = time.perf_counter()
        part = self.measure(k, model)
        part.record.setdefault("seconds", time.perf_counter() - started)
        return part

    @abstractmethod
    def measure(self, k: int, model: MeasuredModel) -> Part:
        """Measure batch ``k``."""

    @abstractmethod
    def summarise(self, parts: Sequence[Part]) -> Row:
        """What all batches add to a row."""

    def found(self, metrics: Sequence[Metric], parts: Sequence[Part], **cost: Any) -> Row:
        """Metrics in the form of a row, and their cost."""
        cost["seconds"] = sum(float(part.record["seconds"]) for part in parts)
        return {"metrics": {m.name: m.plain() for m in metrics}, "costs": {self.title: cost}}


class Share:
    """``count`` of ``events`` (None: all), spread evenly, in batches; ``source`` names them in the settings.

    ``indices`` are their places in the split, ``count`` is the number of batches; events in memory are hashed.
    :meth:`tell` adds what is known of them.
    """

    def __init__(self, events: Events, count: int | None, batch_size: int, source: Mapping[str, Any]) -> None:
        self.events, self.batch_size, self.indices = events, batch_size, subset(len(events), count)
        self.known: Mapping[str, Tensor] = {}
        self.source, self.count = dict(source), -(-len(self.indices) // batch_size)
        if isinstance(events, Tensor):
            chosen = events if len(self.indices) == len(events) else take(events, self.indices)
            self.source["hash"] = content_hash(chosen)

    def tell(self, known: Mapping[str, Tensor]) -> None:
        """Add what is known of the events, one row each, in their order."""
        self.known = known
        self.source |= {"known": {name: content_hash(value) for name, value in known.items()}} if known else {}

    def told(self, score: ScoreModel, k: int) -> ScoreModel:
        """``score`` with what is known of batch ``k``."""
        rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
        return score.given(**{name: value[rows] for name, value in self.known.items()}) if self.known else score

    def unread(self, dataset: Dataset | None) -> Dataset | None:
        """The data set if the events have no hash, so that its source and files identify them; else None."""
        return None if "hash" in self.source else dataset

    @property
    def settings(self) -> dict[str, Any]:
        """What the events of each batch depend on."""
        return {**self.source, "of": len(self.events), "events": len(self.indices), "batch_size": self.batch_size}

    def batch(self, k: int) -> tuple[int, Tensor]:
        """The position of the first event of batch ``k``, and its events (n, ...) as stored."""
        first = k * self.batch_size
        return first, take(self.events, self.indices[first : first + self.batch_size])


@attrs.frozen(eq=False)
class EventMeasure(Measure):
    """A measure of the events of a :class:`Share`."""

    share: Share

    @property
    def count(self) -> int:
        return self.share.count

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, **self.share.settings}


def mean(name: str, values: Tensor, unit: str = "") -> Metric:
    """The mean of float64 ``values`` (n,) and its standard error."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Metric(name, float(values.mean()), error, unit=unit, df=len(values) - 1)
