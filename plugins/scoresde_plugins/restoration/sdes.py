r"""Processes whose mean moves to an observation y: x_t | x_0, y ~ N(alpha x_0 + (1 - alpha) y, sigma^2 I).

    OUVE     alpha = e^{-th t},  sigma^2 = a^2 L (e^{2 L t} - e^{-2 th t}) / (th + L),  L = log(b / a)
    SBVE     alpha = 1 - s/S,    sigma^2 = s (S - s) / S,    s(t) = c (k^{2t} - 1) / (2 log k),  S = s(1)
    IR-SDE   alpha = e^{-Th},    sigma^2 = lam^2 (1 - e^{-2 Th}),   Th = integral of theta from 0 to t

with a, b the smallest and the largest noise of OUVE. They solve dx = th (y - x) dt + a e^{L t} sqrt(2 L) dw,
dx = g^2 (y - x) / (S - s) dt + g dw with g^2 = c k^{2t}, and dx = theta (y - x) dt + lam sqrt(2 theta) dw.
"""

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import SDE, param
from ..song2021.sdes import T_MIN_HELP


@attrs.frozen
class OUVESDE(SDE):
    """Ornstein-Uhlenbeck to y with exploding noise (Richter et al. 2023, arXiv:2208.05830, Eq. 2-4).

    It never forgets the data: alpha(1) = 0.22, so sampling starts from N(y, sigma(1)^2), as published.
    """

    needs: ClassVar = ("y",)

    theta: float = param(1.5, "stiffness of the pull to y", gt(0))
    sigma_min: float = param(0.05, "noise at t = 0, before the pull", gt(0))
    sigma_max: float = param(0.5, "noise at t = 1, before the pull", gt(0))
    t_min: float = param(0.03, T_MIN_HELP, and_(gt(0), lt(1)))

    def __attrs_post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max must be above sigma_min, got {self.sigma_max} and {self.sigma_min}")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.theta * t)

    def sigma(self, t: Tensor) -> Tensor:
        rate = math.log(self.sigma_max / self.sigma_min)
        growth = torch.expm1(2 * (rate + self.theta) * t)
        return self.sigma_min * self.alpha(t) * (growth * (rate / (rate + self.theta))).sqrt()


@attrs.frozen
class SBVESDE(SDE):
    """A Schrodinger bridge from the data to y with exploding noise (Jukic et al. 2024, arXiv:2407.16074, Table 1).

    At t = 1 it is y itself; sampling starts at ``t_max``, from N((1 - alpha) y, sigma^2).
    """

    needs: ClassVar = ("y",)

    k: float = param(2.6, "growth of the noise", gt(1))
    c: float = param(0.4, "scale of the noise", gt(0))
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(0.5)))
    t_max: float = param(0.999, "time at which sampling starts", and_(gt(0.5), lt(1)))

    def alpha(self, t: Tensor) -> Tensor:
        """(S - s) / S, without cancellation near t = 1."""
        return -torch.expm1(2 * math.log(self.k) * (t - 1)) * (self.k**2 / (self.k**2 - 1))

    def sigma(self, t: Tensor) -> Tensor:
        total = self.c * (self.k**2 - 1) / (2 * math.log(self.k))
        return (total * self.alpha(t) * torch.expm1(2 * math.log(self.k) * t) / (self.k**2 - 1)).sqrt()


@attrs.frozen
class IRSDE(SDE):
    """Mean-reverting to y, theta the complement of the cosine schedule (Luo et al. 2023, arXiv:2301.11699, Eq. 5, 6).

    theta(t) is proportional to sin^2(pi/2 (t + s) / (1 + s)) with s = 0.008, so that alpha(1) = ``left``.
    """

    needs: ClassVar = ("y",)

    noise: float = param(50 / 255, "stationary standard deviation lambda; published: 10/255 to 50/255", gt(0))
    left: float = param(0.005, "alpha(1), what is left of the data", and_(gt(0), lt(1)))
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(0.5)))

    def _integral(self, t: Tensor) -> Tensor:
        """Th(t): that of sin^2 is (u - sin u) / 2 with u twice its angle."""
        first, last = math.pi * 0.008 / 1.008, math.pi
        u = first + (last - first) * t.double()
        area = u - first - torch.sin(u) + math.sin(first)
        return (area * (-math.log(self.left) / (last - first + math.sin(first)))).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.noise * (-torch.expm1(-2 * self._integral(t))).sqrt()
