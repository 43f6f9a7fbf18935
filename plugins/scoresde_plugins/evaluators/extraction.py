"""Features of sets of events, shared by metrics: each set is extracted once.

Features are cached with the samples or the reference that they belong to. Where they were extracted before, as
``scoresde evaluate`` does in batches of its own, the evidence holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs
import torch
from torch import Tensor

from scoresde_run.data.evidence import Evidence, Reference
from scoresde_run.features.extraction import EventSet, Extraction
from scoresde_run.features.extractor import Features

HELD_BYTES = 2**30
"""The largest size of the features of a set that are cached for the next metric; larger ones are extracted again."""
_LOOKED_AT = 256


@attrs.define(eq=False)
class Extracted:
    """Features, batch by batch; extracted once if they take at most ``held`` bytes."""

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
    """Return the samples of this process."""
    x = evidence.samples
    return EventSet(("samples",), len(x), lambda: x)


def draws(reference: Reference, which: int) -> EventSet:
    """Return the ``which``-th set of the reference."""
    label = ("draws", repr(reference.target), reference.size, reference.seed, which)
    return EventSet(label, reference.size, lambda: reference.exact(which), reference)


def features(extraction: Extraction, events: EventSet, evidence: Evidence, keep: bool = True) -> Iterable[Features]:
    """Return the features of ``events``: those in the evidence, cached ones, or new ones."""
    key, device = (extraction, events), evidence.samples.device

    def fresh() -> Extracted:
        return Extracted(lambda: extraction(events.load(), device), HELD_BYTES if keep else 0)

    return evidence.once(key, lambda: events.once(key, fresh) if keep else fresh())


def pooled(batches: Iterable[Features]) -> Tensor:
    """Return all features in one tensor (n, D), float64."""
    return torch.cat([batch.pooled for batch in batches]).double()


def no_images(x: Tensor) -> str | None:
    """Return why floats ``x`` cannot be images on [-1, 1], or None.

    They are not if more than 1 in 100 numbers of the first events lie far outside, where rounding to grey levels would
    clip.
    """
    some = x[:_LOOKED_AT]
    if not some.is_floating_point() or float((some.abs() > 1.5).double().mean()) <= 0.01:
        return None
    return f"floats from {float(some.min()):.4g} to {float(some.max()):.4g}"
