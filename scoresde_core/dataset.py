"""Datasets: images or points, as they are on disk, with their splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor

Split = Literal["train", "test"]


class Events(Protocol):
    """The events of a split by their index, decoded when they are asked for; a tensor (N, ...) is one as well."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class Dataset(ABC):
    """A source of events. Images are uint8 (N, C, H, W); points and draws of targets are float32 (N, ...).

    A source that fits into memory implements :meth:`load`; one that need not fit overrides :meth:`open` as well.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @abstractmethod
    def load(self, split: Split = "train") -> Tensor:
        """All events of a split, in their stored order. A missing file is an error that says how to get it."""

    def open(self, split: Split = "train") -> Events:
        """The events of a split one by one, in the same order; must survive being pickled or forked to a worker."""
        return self.load(split)

    def known(self, split: Split = "train") -> Mapping[str, Tensor]:
        """What else is known of the events of a split, by its name, a row an event: ``labels`` are classes, int64 (N,).

        A loss names what it needs (:attr:`scoresde_core.loss.Loss.needs`); nobody else asks.
        """
        return {}
