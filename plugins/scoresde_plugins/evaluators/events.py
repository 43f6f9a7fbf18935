"""Data sets as the truth: the sets of events that samples are compared with."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.components import param
from scoresde_run.data.batches import order
from scoresde_run.data.dataset import Dataset, Split, content_hash
from scoresde_run.data.evidence import Evidence, Reference
from scoresde_run.data.units import Units
from scoresde_run.features.extraction import EventSet

from .comparison import Comparison

KEPT = 2
"""How many splits, and sets of each split besides the whole, are cached for the next cell or checkpoint."""


@attrs.define(eq=False)
class EventReference(Reference):
    """Disjoint sets of events, in a random order that depends on the seed; images are on [-1, 1], as samples are."""

    events: Tensor = attrs.field(kw_only=True, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.events.shape[1:])

    @property
    def sets(self) -> float:
        return len(self.events) // self.size

    def stored(self, which: int = 0) -> Tensor:
        """Return the events of a set as they are stored."""
        return self.events[self.rows(which)]

    def rows(self, which: int = 0) -> Tensor:
        """Return the indices of the events of a set in the data set."""
        if which >= self.sets:
            raise ValueError(f"{len(self.events)} events are too few for {which + 1} sets of {self.size}")
        rows = self.once("order", lambda: order(self.seed, 0, len(self.events)))
        return rows[which * self.size : (which + 1) * self.size]

    def draw(self, which: int) -> Tensor:
        return Units().encode(self.stored(which))


@attrs.frozen
class Origin:
    """A split of a data set; equal if both are written alike."""

    dataset: Dataset = attrs.field(eq=lambda dataset: (type(dataset), repr(dataset)))
    split: Split

    def events(self) -> Tensor:
        """Return all events in their stored order, cached; uint8 images or floats."""
        return _events(self)

    def reference(self, size: int, seed: int, device: torch.device | str) -> EventReference:
        """Return disjoint sets of ``size`` events; equal arguments share one reference."""
        return _reference(self, size, seed, str(device))

    def misfit(self, evidence: Evidence, equal: bool = True) -> str | None:
        """Return why samples cannot be compared with these events, or None; ``equal`` asks for as many of them."""
        own, shape = self.dataset.shape, tuple(evidence.samples.shape[1:])
        if own != shape:
            return (
                f"the reference has events of shape {own}, the samples {shape}: choose another data set, or resize it "
                "with reference=resized[data=...,size=...]"
            )
        size, count = len(self.events()) if equal else evidence.count, evidence.count
        if size < count:
            return f"the {self.split} split of the reference has {size} events, fewer than {count} samples: draw fewer"
        return None

    def whole(self, device: torch.device | str) -> EventSet:
        """Return all events, in their stored order."""
        size, label = len(self.events()), (repr(self.dataset), self.split)
        return EventSet(label, size, self.events, self.reference(size, 0, device))

    def subset(self, size: int, seed: int, device: torch.device | str) -> EventSet:
        """Return the first set of a reference."""
        found, whole = self.reference(size, seed, device), self.whole(device)
        return EventSet((*whole.label, size, seed), size, found.stored, found, whole, found.rows)


@lru_cache(maxsize=KEPT)
def _events(origin: Origin) -> Tensor:
    return origin.dataset.load(origin.split)


@lru_cache(maxsize=KEPT * (KEPT + 1))
def _reference(origin: Origin, size: int, seed: int, device: str) -> EventReference:
    return EventReference(None, size, seed, device, events=origin.events())


class DataReference:
    """Base class of metrics whose reference may be a data set."""

    reference: Dataset | None
    split: Split

    @property
    def origin(self) -> Origin | None:
        """The split of the data set, if one is given."""
        return None if self.reference is None else Origin(self.reference, self.split)

    def prepare(self) -> None:
        """Read the data set, so that a missing one is an error here."""
        if self.origin is not None:
            self.origin.events()


@attrs.frozen
class SetComparison(DataReference, Comparison):
    """A comparison with sets of true events only, for which a data set can replace an exact target."""

    needs: ClassVar[frozenset[str]] = frozenset()

    reference: Dataset | None = param(
        None, "data set to compare with, such as mnist[root=data]; null: the exact target", kw_only=True, eq=repr
    )
    split: Split = param("train", "which part of that data set", kw_only=True)

    def depends_on(self, evidence: Evidence) -> Mapping[str, Any]:
        return {} if self.origin is None else {"hash": content_hash(self.origin.events())}

    def skip(self, evidence: Evidence) -> str | None:
        """Return why there is no value: no truth, or a data set of another shape or with too few events."""
        if self.origin is None and evidence.reference is None:
            return f"{type(self).__name__} needs target, or a data set: {self.name}[reference=mnist[root=data]]"
        return (self.origin and self.origin.misfit(evidence)) or super().skip(evidence)

    def truth(self, evidence: Evidence) -> Reference | None:
        if self.origin is None:
            return evidence.reference
        return self.origin.reference(evidence.count, evidence.seed, evidence.samples.device)
