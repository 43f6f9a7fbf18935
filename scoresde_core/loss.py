"""Losses: what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .score import ScoreModel
from .sde import SDE


class Loss(ABC):
    """A per-sample training loss whose minimiser is the exact score."""

    @abstractmethod
    def per_sample(self, model: ScoreModel, sde: SDE, x: Tensor) -> Tensor:
        """The loss of every event in ``x`` (B, ...), as (B,); times and noise are drawn inside."""
