"""Datasets: images or points, as they are on disk, with their splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

Split = Literal["train", "test"]


class Dataset(ABC):
    """A source of events. Images are uint8 (N, C, H, W); points are float32 (N, D)."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @abstractmethod
    def load(self, split: Split = "train") -> Tensor:
        """All events of a split, in their stored order. A missing file is an error that says how to get it."""
