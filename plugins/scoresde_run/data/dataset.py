"""Datasets: images or points as stored, with their splits."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "test"]
Levels = int | Literal["auto"] | None
"""The number of grey levels of images; None: events are floats; ``auto``: inferred from the type of the events."""

STORED = {"class": "labels"}
"""Names that data sets have for what models know."""


class Events(Protocol):
    """The events of a split by index, decoded on access; a tensor (N, ...) is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


def rows(events: Events, indices: Sequence[int]) -> Tensor:
    """The events at ``indices``, stacked."""
    if isinstance(events, Tensor):
        return events[torch.as_tensor(indices, device=events.device)]
    return torch.stack([events[index] for index in indices])


class Dataset(ABC):
    """A source of events: images as uint8 (N, C, H, W), or int32 for 16 bits; all else as floats (N, ...).

    A source implements :meth:`load`; one that may not fit into memory overrides :meth:`open` too.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @abstractmethod
    def load(self, split: Split = "train") -> Tensor:
        """All events of a split, in stored order; the error for a missing file says how to get it."""

    @property
    def levels(self) -> Levels:
        """256 for 8-bit images, 65536 for 16 bits, None for floats; a class attribute ``levels = 256`` is enough.

        A checkpoint records it. For one that does not, it comes from the data set, whose events are read if it says
        ``auto``; without the data set, events (C, H, W) of 1, 3 or 4 channels are 8-bit images and others floats.
        """
        return "auto"

    @property
    def mirrors(self) -> Mapping[str, bool]:
        """Which entries of :meth:`known` are mirrored with an event, along their last axis; a class is not.

        An entry not named here is mirrored if it has the height and width of the event, and else ``data.random_flip``
        is refused.
        """
        return {"labels": False}

    def open(self, split: Split = "train") -> Events:
        """The events of a split one by one, in the same order; must survive pickling and forking to a worker."""
        return self.load(split)

    def known(self, split: Split = "train") -> Mapping[str, Tensor]:
        """Other data of the events by name, one row per event: ``labels`` are classes, int64 (N,).

        ``y`` and other entries of the shape of an event are in its units. It is read only for losses, networks and
        processes that need it.
        """
        return {}


def content_hash(events: Tensor) -> str:
    """A hash of the values of ``events``, which may change under the same data set name."""
    return hashlib.blake2b(events.cpu().contiguous().numpy().data, digest_size=16).hexdigest()
