"""Datasets: images or points, as they are on disk, with their splits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor

Split = Literal["train", "test"]
Levels = int | Literal["auto"] | None
"""The grey levels of a data set's images; None: its events are floats; ``auto``: the type of its events tells."""


class Events(Protocol):
    """The events of a split by their index, decoded when they are asked for; a tensor (N, ...) is one as well."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class Dataset(ABC):
    """A source of events. Images are uint8 (N, C, H, W), or int32 where they have 16 bits; all else is floats (N, ...).

    A source that fits into memory implements :meth:`load`; one that need not fit overrides :meth:`open` as well.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @abstractmethod
    def load(self, split: Split = "train") -> Tensor:
        """All events of a split, in their stored order. A missing file is an error that says how to get it."""

    @property
    def levels(self) -> Levels:
        """256 for 8-bit images, 65536 for 16 bits, None for floats. A class attribute does: ``levels = 256``.

        A checkpoint records it. Of one that does not, the data set is asked, and where it says ``auto`` read. Where it
        is not here, events (C, H, W) of 1, 3 or 4 channels are 8-bit images and others are floats.
        """
        return "auto"

    @property
    def mirrors(self) -> Mapping[str, bool]:
        """What becomes of what is known of an event when the event is mirrored left to right, by its name.

        True: it is mirrored with the event, along its last axis; False: it stays, as a class does. What is not named
        here is mirrored where it has the height and width of the event, and else refused under ``data.random_flip``.
        """
        return {"labels": False}

    def open(self, split: Split = "train") -> Events:
        """The events of a split one by one, in the same order; must survive being pickled or forked to a worker."""
        return self.load(split)

    def known(self, split: Split = "train") -> Mapping[str, Tensor]:
        """What else is known of the events of a split, by its name, a row an event: ``labels`` are classes, int64 (N,).

        A loss names what it needs (:attr:`scoresde_core.loss.Loss.needs`); nobody else asks.
        """
        return {}


def content_hash(events: Tensor) -> str:
    """Of the events themselves: a data set of the same name may hold others another day."""
    return hashlib.blake2b(events.cpu().contiguous().numpy().data, digest_size=16).hexdigest()
