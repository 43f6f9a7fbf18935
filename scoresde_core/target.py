r"""Exact targets: distributions whose density and score are closed form at every noise level.

If x_0 ~ p_0 and x = alpha x_0 + sigma eps, then x ~ p_{alpha, sigma}. A target covers the whole family, so that every
Gaussian-path SDE has an exact score, which separates the error of a sampler from that of a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from .estimate import Estimate
from .sde import DATA, Level


class Target(ABC):
    """An exact distribution over events of one ``shape``. Densities are in nats.

    One that ``knows`` its class has a further argument of ``score``: ``classes`` (B,), the component of each row, -1
    any; then the score is that of the row's component.
    """

    knows: tuple[str, ...] = ()
    discrete: bool = False
    """Whether events are points: ``log_prob`` and ``score`` then need sigma > 0, and ``entropy`` is refused."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event, such as (2,) or (1, 28, 28)."""

    @abstractmethod
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, *shape); the same seed gives the same draws."""

    @abstractmethod
    def log_prob(self, x: Tensor, level: Level = DATA) -> Tensor:
        """log p_{alpha, sigma}(x), (B, *shape) -> (B,)."""

    @abstractmethod
    def score(self, x: Tensor, level: Level = DATA) -> Tensor:
        """grad_x log p_{alpha, sigma}(x), like ``x``."""

    @abstractmethod
    def entropy(self) -> Estimate:
        """-E log p_0(x) in nats."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the flattened events, float64."""

    @property
    def images(self) -> bool:
        """Whether the events are images, black at -1 and white at 1, rather than arbitrary floats."""
        return False

    def modes(self) -> Tensor | None:
        """The weights (K,) of the components, float64; None for a target without components."""
        return None

    def component(self, k: int) -> Target:
        """The law of component ``k`` of a target that ``knows`` its class."""
        raise NotImplementedError(f"{type(self).__name__} has no components")

    def responsibilities(self, x: Tensor) -> Tensor:
        """Posterior probability of each component, (B, *shape) -> (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} has no components")

    def log_responsibilities(self, x: Tensor, level: Level = DATA) -> Tensor:
        """Log posterior probability of each component given a noisy ``x``, (B, *shape) -> (B, K), differentiable."""
        raise NotImplementedError(f"{type(self).__name__} has no components")

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """This target on ``device``, computing in ``dtype``."""
        return self
