"""The linear VE SDE of ScoreFlow's published code (arXiv:2101.09258): sigma(t) = sigma_max t."""

import math

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import SDE, param
from ..song2021.sdes import IN_RANGE, T_MIN_HELP


@attrs.frozen
class LinearVESDE(SDE):
    """dx = sigma_max sqrt(2 t) dw, so ``alpha = 1`` and ``sigma = sigma_max t``; its chain is Euler-Maruyama."""

    sigma_max: float = param(50.0, "noise scale at t = 1", IN_RANGE)
    t_min: float = param(1e-5, T_MIN_HELP, and_(gt(0), lt(1)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        return (log_noise_ratio.double().exp() / self.sigma_max).clamp(t_min or self.t_min, 1)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma_max * math.sqrt(2) * t.sqrt()
