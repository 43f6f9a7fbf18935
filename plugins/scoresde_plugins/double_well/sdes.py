r"""Overdamped motion in a double well, of each entry on its own: a process that is no Gaussian path.

    dx = -4 r x (x^2 - 1) dt + sqrt(2 r T) dw,      stationary law  pi(x) proportional to exp(-(x^2 - 1)^2 / T)

It has no alpha and no sigma: x_t is known by simulation alone, and a network learns its score by sliced score matching.
"""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import Process, param
from ..song2021.sdes import T_MIN_HELP

_WIDTH, _POINTS = 4.0, 20_001


@attrs.frozen
class DoubleWellSDE(Process):
    """Wells at -1 and 1, temperature T; the prior is the stationary law, which it reaches for large ``rate``."""

    rate: float = param(4.0, "speed r of the whole process", gt(0))
    temperature: float = param(2.0, "temperature T, in units of the barrier between the wells", gt(0))
    t_min: float = param(1e-4, T_MIN_HELP, and_(gt(0), lt(1)))

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -4 * self.rate * x * (x.square() - 1)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, (2 * self.rate * self.temperature) ** 0.5)

    @property
    def prior(self) -> DoubleWellPrior:
        return DoubleWellPrior(self.temperature)


@attrs.frozen
class DoubleWellPrior:
    """exp(-(x^2 - 1)^2 / T) over Z for each entry, tabulated on [-4, 4]."""

    temperature: float

    def from_noise(self, z: Tensor) -> Tensor:
        """Map standard normal ``z`` to a draw: the inverse of the distribution function at that of the normal law."""
        x, share, _ = (part.to(z.device) for part in self._table)
        wanted: Tensor = torch.special.ndtr(z.double())
        k = torch.searchsorted(share, wanted.contiguous()).clamp(1, len(x) - 1)
        inner = (wanted - share[k - 1]) / (share[k] - share[k - 1]).clamp_min(1e-300)
        return (x[k - 1] + inner.clamp(0, 1) * (x[1] - x[0])).to(z.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density in nats, (B, ...) -> (B,)."""
        energy = (x.square() - 1).square() / self.temperature
        return -(energy + float(self._table[2])).flatten(1).sum(1)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points, the distribution function at them, and log Z, by the trapezoidal rule."""
        x = torch.linspace(-_WIDTH, _WIDTH, _POINTS, dtype=torch.float64)
        density = torch.exp(-(x.square() - 1).square() / self.temperature)
        mass = torch.cat([x.new_zeros(1), torch.cumulative_trapezoid(density, x)])
        return x, mass / mass[-1], mass[-1].log()
