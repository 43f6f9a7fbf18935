"""Conditions: controllable generation through the score and a projection, for every predictor and corrector."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .noise import Draw
from .score import ScoreModel
from .sde import Level


class Condition(ABC):
    """What is known of a sample."""

    def guide(self, model: ScoreModel) -> ScoreModel:
        """The conditional score model; the unconditional one where the condition acts on the state alone."""
        return model

    @abstractmethod
    def impose(self, x: Tensor, level: Level, noise: Draw) -> Tensor:
        """The state with the known part set to its law at ``level``."""
