"""Features of sets of events, which metrics share: each set is extracted once, whoever asks.

What was extracted is kept with the samples or the reference that it follows from; where somebody has extracted it
before, as ``scoresde evaluate`` does in batches of its own, the evidence brings it along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs
import torch
from torch import Tensor

from scoresde_core.evaluator import EventSet, Evidence, Reference
from scoresde_core.extractor import Extraction, Features

HELD_BYTES = 2**30
"""Up to this size the features of a set are kept for the next metric; beyond, they are extracted again."""
_LOOKED_AT = 256


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
