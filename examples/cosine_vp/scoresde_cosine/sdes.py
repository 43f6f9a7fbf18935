"""The cosine schedule of Nichol & Dhariwal 2021 (arXiv:2102.09672, Eq. 17) as a variance-preserving SDE.

There ``alpha(t) = cos(u) / cos(u_0)`` with ``u = (t + s) / (1 + s) * pi / 2``, which is 0 at t = 1, so that the drift
``d log alpha / dt`` is infinite. Here t is scaled by LAST, the end that DPM-Solver (arXiv:2206.00927) uses, where
alpha is 0.008; and ``sigma = sqrt(1 - alpha^2)`` is a product of sines, which keeps its digits near t = 0.
"""

import math

import attrs
import torch
from attrs.validators import gt
from scoresde_core import SDE, param

LAST = 0.9946


@attrs.frozen
class CosineVPSDE(SDE):
    """alpha = cos(u) / cos(u_0), sigma = sqrt(1 - alpha^2), with u = (0.9946 t + s) / (1 + s) pi / 2."""

    s: float = param(0.008, "offset that keeps the noise near t = 0 from being too small", gt(0))

    def angle(self, t):
        return (LAST * t + self.s) / (1 + self.s) * math.pi / 2

    def alpha(self, t):
        return torch.cos(self.angle(t)) / math.cos(self.angle(0))

    def sigma(self, t):
        u, u_0 = self.angle(t), self.angle(0)
        return torch.sqrt(torch.sin(u - u_0) * torch.sin(u + u_0)) / math.cos(u_0)


@attrs.frozen
class SpeechSDE(SDE):
    """OUVE (Richter et al. 2023, arXiv:2208.05830): x_t = alpha x_0 + (1 - alpha) y + sigma eps, y the noisy speech."""

    needs = ("y",)
    t_min = 0.03

    theta: float = param(1.5, "pull to y", gt(0))

    def alpha(self, t):
        return torch.exp(-self.theta * t)

    def sigma(self, t):
        rate = math.log(10)  # from 0.05 to 0.5
        return 0.05 * self.alpha(t) * torch.sqrt(torch.expm1(2 * (rate + self.theta) * t) * rate / (rate + self.theta))
