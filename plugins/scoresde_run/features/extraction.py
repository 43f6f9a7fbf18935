"""Features of events, between which distances of sets of images are measured.

An extractor turns events into features. An extraction is an extractor with its settings, and reads sets of events;
metrics with equal extractions of equal sets share their features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar

import attrs
import torch
from torch import Tensor
from ..data.evidence import Reference
from ..data.units import Units
from ..machine.processes import Processes

Rounding = Literal["nearest", "floor"]
T = TypeVar("T")


@attrs.frozen(eq=False)
class Features:
    """The float32 features (B, D) of a batch and, for a classifier, logits (B, K)."""

    pooled: Tensor
    logits: Tensor | None = None


class Extractor(ABC):
    """A fixed map from events to features; its metrics are named after it.

    It takes images as uint8 (B, C, H, W), or floats (B, *shape) with ``images = False``.
    """

    name: ClassVar[str]
    images: ClassVar[bool] = True

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why events of ``shape`` cannot be read, or None."""
        return None

    @abstractmethod
    def load(self, device: torch.device) -> Callable[[Tensor], Features]:
        """The map, ready to be called on ``device``; the error for missing weights says how to get them."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """All inputs of a feature as plain data: the hash of the weights, the resize, the range of the input."""


@attrs.frozen
class EventSet:
    """Events whose features a metric reads, identified by ``label`` alone; equal sets are made by one function."""

    label: tuple[Any, ...]
    """What the events are, as unique plain data."""
    size: int = attrs.field(eq=False)
    load: Callable[[], Tensor] = attrs.field(eq=False, repr=False)
    keeper: Reference | None = attrs.field(default=None, eq=False, repr=False)
    """Holds values derived from the events."""
    whole: "EventSet | None" = attrs.field(default=None, eq=False, repr=False)
    """The set that the events are part of, if any."""
    rows: Callable[[], Tensor] | None = attrs.field(default=None, eq=False, repr=False)
    """Their indices in ``whole``."""

    def __attrs_post_init__(self) -> None:
        if (self.whole is None) != (self.rows is None):
            raise ValueError(f"whole and rows of the events {self.label} belong together: give both or neither")

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, cached by the ``keeper`` if there is one."""
        return compute() if self.keeper is None else self.keeper.once(name, compute)

    def share(self, processes: Processes | None) -> "EventSet":
        """The events of this process: every n-th for n processes."""
        if processes is None or processes.count == 1:
            return self
        rank, count = processes.rank, processes.count
        size = len(range(rank, self.size, count))
        return EventSet((*self.label, rank, count), size, lambda: self.load()[rank::count], self.keeper)


@attrs.frozen
class Extraction:
    """How events become features."""

    extractor: Extractor = attrs.field(eq=lambda extractor: (type(extractor), repr(extractor)))
    rounding: Rounding | None = attrs.field()
    """How floats become grey levels; None if the extractor reads floats."""
    batch_size: int = attrs.field(default=250, eq=False)

    @rounding.default
    def _usual(self) -> Rounding | None:
        return "nearest" if self.extractor.images else None

    def __call__(self, events: Tensor, device: torch.device) -> Iterator[Features]:
        """Yield the features of ``events``, uint8 images or floats, batch by batch."""
        network = _loaded(self, str(device))
        with torch.no_grad():
            for x in (batch.to(device) for batch in torch.split(events, self.batch_size)):
                if self.rounding is None or x.dtype != torch.uint8:
                    x = Units().encode(x).float()
                    x = x if self.rounding is None else Units().images(x, self.rounding)
                yield network(x)

    def prepare(self) -> None:
        """Load the extractor, so that missing weights are an error here."""
        _loaded(self, "cpu")

    @property
    def protocol(self) -> dict[str, Any]:
        """All inputs of its features as plain data."""
        return {"features": _protocol(self), "rounding": self.rounding}


@lru_cache(maxsize=2)
def _loaded(extraction: Extraction, device: str) -> Callable[[Tensor], Features]:
    return extraction.extractor.load(torch.device(device))


@lru_cache(maxsize=16)
def _protocol(extraction: Extraction) -> dict[str, Any]:
    return dict(extraction.extractor.protocol())
