r"""Critically damped Langevin diffusion (Dockhorn et al. 2022, arXiv:2112.07068, Eq. 5 and Appendix B).

    dx = (beta / M) v dt,     dv = -beta x dt - Gamma beta v / M dt + sqrt(2 Gamma beta) dw,     Gamma^2 = 4 M

Noise enters the velocity alone, so positions are smooth. With B = beta t the mean of (x_0, 0) and the covariance are

    A = e^{-2B/Gamma} [[1 + 2B/Gamma, 4B/Gamma^2], [-B, 1 - 2B/Gamma]]
    Sigma = e^{-b} [[e^b - 1 - b - b^2/2, 4B^2/Gamma], [., Gamma^2/4 (e^b - 1) + B Gamma - 2B^2]]
            + A diag(0, gamma M) A^T

with b = 4B/Gamma. The second term is the velocity's law at t = 0, N(0, gamma M): the conditional law is that given x_0
alone, which is hybrid score matching (Eq. 8).
"""

import math

import attrs
import torch
from attrs.validators import and_, gt, le, lt
from torch import Tensor
from scoresde_core import GaussianPrior, param
from ..linear.blocks import BlockSDE
from ..song2021.sdes import T_MIN_HELP

_TERMS = 24


@attrs.frozen
class CriticallyDampedSDE(BlockSDE):
    """Position and velocity; the prior is N(0, diag(1, M)). Published: M 0.25, beta 4, gamma 0.04."""

    mass: float = param(0.25, "mass M; the damping is Gamma = 2 sqrt(M)", gt(0))
    beta: float = param(4.0, "rate of the whole process", gt(0))
    gamma: float = param(0.04, "variance of the velocity at t = 0, in units of M", and_(gt(0), le(1)))
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(1)))

    @property
    def prior(self) -> GaussianPrior:
        return GaussianPrior(0.0, (1.0, math.sqrt(self.mass)))

    @property
    def damping(self) -> float:
        """Gamma."""
        return 2 * math.sqrt(self.mass)

    def drift_rate(self, t: Tensor) -> Tensor:
        beta, mass = self.beta, self.mass
        return self._constant(t, [[0.0, beta / mass], [-beta, -self.damping * beta / mass]])

    def diffusion(self, t: Tensor) -> Tensor:
        return self._constant(t, [[0.0, 0.0], [0.0, math.sqrt(2 * self.damping * self.beta)]])

    def alpha(self, t: Tensor) -> Tensor:
        damping, b = self.damping, self.beta * t
        rows = torch.stack([1 + 2 * b / damping, 4 * b / damping**2, -b, 1 - 2 * b / damping], -1)
        return (torch.exp(-2 * b / damping)[..., None] * rows).reshape(*t.shape, 2, 2)

    def covariance(self, t: Tensor) -> Tensor:
        damping, at = self.damping, self.beta * t.double()
        b = 4 * at / damping
        cross = 4 * at.square() / damping
        velocity = 0.25 * damping**2 * torch.expm1(b) + at * damping - 2 * at.square()
        rows = torch.stack([_remainder(b), cross, cross, velocity], -1)
        fresh = (torch.exp(-b)[..., None] * rows).reshape(*t.shape, 2, 2)
        start = self.alpha(t.double())[..., 1:]
        return (fresh + self.gamma * self.mass * start * start.mT).to(t.dtype)

    def _constant(self, t: Tensor, rows: list[list[float]]) -> Tensor:
        return t.new_tensor(rows).expand(*t.shape, 2, 2)


def _remainder(b: Tensor) -> Tensor:
    """e^b - 1 - b - b^2 / 2; a series where the difference would cancel."""
    term = b**3 / 6
    series = term
    for n in range(4, _TERMS):
        term = term * b / n
        series = series + term
    return torch.where(b < 1, series, torch.expm1(b) - b - 0.5 * b.square())
