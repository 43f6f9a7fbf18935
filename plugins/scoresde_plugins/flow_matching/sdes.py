r"""Processes of flow matching, with no signal at t = 1: x_1 is noise alone.

    rectified flow    alpha = 1 - t          sigma = t              f = -1 / (1 - t)           g^2 = 2 t / (1 - t)
    TrigFlow          alpha = cos(pi t / 2)  sigma = sin(pi t / 2)  f = -(pi/2) tan(pi t / 2)  g^2 = pi tan(pi t / 2)

f and g are those of the SDE with these marginals; they are infinite at t = 1, where the flow itself is finite.
"""

import math

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import SDE, param
from ..song2021.sdes import T_MIN_HELP


@attrs.frozen
class RectifiedFlowSDE(SDE):
    """alpha = 1 - t, sigma = t: straight lines between data and noise (arXiv:2209.03003; arXiv:2210.02747).

    Its velocity is eps - x_0, the network parameterisation ``flow``.
    """

    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(0.5)))

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        return log_noise_ratio.double().sigmoid().clamp(t_min or self.t_min, 1)


@attrs.frozen
class TrigFlowSDE(SDE):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): an arc from data to noise (arXiv:2410.11081, for sigma_data = 1).

    It preserves the variance of data of variance 1. Its velocity over pi / 2 is v, the parameterisation of that name.
    """

    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(0.5)))

    def alpha(self, t: Tensor) -> Tensor:
        """sin(pi (1 - t) / 2), which is exactly 0 at t = 1."""
        return torch.sin(0.5 * math.pi * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * self.sigma(t) / self.alpha(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return (math.pi * self.sigma(t) / self.alpha(t)).sqrt()

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        return (log_noise_ratio.double().exp().atan() * (2 / math.pi)).clamp(t_min or self.t_min, 1)
