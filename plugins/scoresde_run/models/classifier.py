"""Noise-conditional classifiers, which guide sampling to a class and which a classification loss trains."""

from abc import ABC, abstractmethod

from torch import Tensor
from scoresde_core import SDE, Level


class NoisyClassifier(ABC):
    """p_t(y | x) at every noise level of the process ``sde``."""

    sde: SDE

    @property
    @abstractmethod
    def classes(self) -> int:
        """The number of classes; labels are 0 to ``classes`` - 1."""

    @abstractmethod
    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        """log p(y | x_t = x), (B, *shape) -> (B, classes), differentiable in ``x``."""
