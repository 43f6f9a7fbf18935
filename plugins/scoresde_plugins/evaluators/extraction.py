"""Features of sets of events, which metrics share: each set is extracted once, whoever asks.

What was extracted is kept with the samples or the reference that it follows from; where somebody has extracted it
before, as ``scoresde evaluate`` does in batches of its own, the evidence brings it along.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal, TypeVar

import attrs
import torch
from torch import Tensor

from scoresde_core.evaluator import Evidence, Reference
from scoresde_core.extractor import Extractor, Features
from scoresde_core.processes import Processes
from scoresde_core.units import Units

Rounding = Literal["nearest", "floor"]
HELD_BYTES = 2**30
"""Up to this size the features of a set are kept for the next metric; beyond, they are extracted again."""
_LOOKED_AT = 256
T = TypeVar("T")


@attrs.frozen
class Extraction:
    """How events become features; metrics that agree in it share them."""

    extractor: Extractor = attrs.field(eq=repr)
    rounding: Rounding | None
    """How floats become grey levels; None where the extractor reads floats."""
    batch_size: int = attrs.field(eq=False)

    def __call__(self, events: Tensor, device: torch.device) -> Iterator[Features]:
        """The features of ``events``, uint8 images or floats, batch by batch."""
        network = _loaded(self, str(device))
        with torch.no_grad():
            for batch in torch.split(events, self.batch_size):
                yield network(self._input(batch.to(device)))

    def _input(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8 and self.rounding is not None:
            return x
        seen = Units().encode(x).float()
        return seen if self.rounding is None else quantised(seen, self.rounding)

    def prepare(self) -> None:
        """Load the extractor: missing weights are an error here."""
        _loaded(self, "cpu")

    @property
    def protocol(self) -> dict[str, Any]:
        """All that its features depend on, as plain data."""
        return {"features": _protocol(self), "rounding": self.rounding}


@attrs.frozen
class EventSet:
    """Events whose features are wanted; equal where they have the same label, which is plain data."""

    label: tuple[Any, ...]
    size: int = attrs.field(eq=False)
    load: Callable[[], Tensor] = attrs.field(eq=False, repr=False)
    keeper: Reference | None = attrs.field(default=None, eq=False, repr=False)
    """What they follow from, beside the evidence."""
    whole: EventSet | None = attrs.field(default=None, eq=False, repr=False)
    """What they are a part of, if anything."""
    rows: Callable[[], Tensor] | None = attrs.field(default=None, eq=False, repr=False)
    """Where they are in it."""

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, kept with what they follow from."""
        return compute() if self.keeper is None else self.keeper.once(name, compute)

    def share(self, processes: Processes | None) -> EventSet:
        """Every n-th of them, of n processes."""
        if processes is None or processes.count == 1:
            return self
        rank, count = processes.rank, processes.count
        size = len(range(rank, self.size, count))
        return EventSet((*self.label, rank, count), size, lambda: self.load()[rank::count], self.keeper)


@attrs.define(eq=False)
class Extracted:
    """Features, batch by batch; extracted once where there are at most ``held`` bytes of them."""

    extract: Callable[[], Iterator[Features]] | None
    held: int
    _kept: list[Features] = attrs.field(factory=list, init=False)

    def __iter__(self) -> Iterator[Features]:
        if self.extract is None:
            yield from self._kept
            return
        kept, size = [], 0
        for batch in self.extract():
            size += batch.pooled.nbytes
            if size <= self.held:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= self.held:
            self._kept, self.extract = kept, None


def samples(evidence: Evidence) -> EventSet:
    """The samples of this process."""
    x = evidence.samples
    return EventSet(("samples",), len(x), lambda: x)


def draws(reference: Reference, which: int) -> EventSet:
    """A set of the truth that the evidence brings."""
    label = ("draws", repr(reference.target), reference.size, reference.seed, which)
    return EventSet(label, reference.size, lambda: reference.exact(which), reference)


def features(extraction: Extraction, events: EventSet, evidence: Evidence, keep: bool = True) -> Iterable[Features]:
    """Those of ``events``: what the evidence brings, what was kept, or fresh ones."""
    key, device = (extraction, events), evidence.samples.device

    def fresh() -> Extracted:
        return Extracted(lambda: extraction(events.load(), device), HELD_BYTES if keep else 0)

    return evidence.once(key, lambda: events.once(key, fresh) if keep else fresh())


def pooled(batches: Iterable[Features]) -> Tensor:
    """(n, D), float64."""
    return torch.cat([batch.pooled for batch in batches]).double()


def no_images(x: Tensor) -> str | None:
    """Why floats ``x`` cannot be images on [-1, 1], or None: by its first events, more than 1 in 100 numbers of which
    lie far outside. Rounded to grey levels, they would be cut off.
    """
    some = x[:_LOOKED_AT]
    if not some.is_floating_point() or float((some.abs() > 1.5).double().mean()) <= 0.01:
        return None
    return f"floats from {float(some.min()):.4g} to {float(some.max()):.4g}"


def quantised(x: Tensor, rounding: Rounding) -> Tensor:
    """uint8 images from [-1, 1]."""
    return Units().images(x, rounding)


@lru_cache(maxsize=2)
def _loaded(extraction: Extraction, device: str) -> Callable[[Tensor], Features]:
    return extraction.extractor.load(torch.device(device))


@lru_cache(maxsize=16)
def _protocol(extraction: Extraction) -> dict[str, Any]:
    return dict(extraction.extractor.protocol())
