r"""Grids: the times of a sampler's N steps, from t = 1 to the SDE's t_min. The last step leads from t_min to the data.

A grid maps the unit interval to times; the sampler gives the number of steps, the SDE the ends.
"""

import math
from abc import abstractmethod

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.schedule import Grid
from scoresde_core.sde import SDE


@attrs.frozen
class _Spread(Grid):
    """N times from 1 to t_min, spread by :meth:`place`, then 0."""

    def times(self, sde: SDE, steps: int) -> Tensor:
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {steps}")
        inner = self.place(sde, torch.linspace(0, 1, steps, dtype=torch.float64))
        if steps > 1:
            inner[-1] = sde.t_min  # exact at the ends
        inner[0] = 1.0
        times = torch.cat([inner, inner.new_zeros(1)])
        if not bool((times.diff() < 0).all()):
            raise ValueError(
                f"{self!r} does not give {steps} different times between 1 and {sde.t_min:g} under {sde!r}: "
                "use less extreme parameters, or fewer steps"
            )
        return times

    @abstractmethod
    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """Return times for ``u`` from 0 (t = 1) to 1 (t = t_min)."""


@attrs.frozen
class UniformGrid(_Spread):
    """Evenly spaced in t: the grid of the published code."""

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """1 + u (t_min - 1)."""
        return 1 + u * (sde.t_min - 1)


@attrs.frozen
class QuadraticGrid(_Spread):
    """Evenly spaced in sqrt(t): more steps near the data (DDIM, arXiv:2010.02502, Appendix D.2)."""

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """(1 + u (sqrt(t_min) - 1))^2."""
        return (1 + u * (math.sqrt(sde.t_min) - 1)).square()


@attrs.frozen
class LogSNRGrid(_Spread):
    """Evenly spaced in log(alpha / sigma) (DPM-Solver, arXiv:2206.00927, Section 3.4)."""

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """The times at which log(sigma / alpha) falls linearly in u."""
        first, last = _ends(sde)
        return sde.time_at(first + u * (last - first))


@attrs.frozen
class KarrasGrid(_Spread):
    """(sigma / alpha)^(1/rho) evenly spaced (Karras et al. 2022, arXiv:2206.00364, Eq. 5)."""

    rho: float = param(7.0, "larger puts more steps near the data", gt(0))

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """The times at which (sigma / alpha)^(1/rho) falls linearly in u."""
        first, last = _ends(sde)
        # The logarithm of (first^(1/rho) + u (last^(1/rho) - first^(1/rho)))^rho, without overflow.
        return sde.time_at(first + self.rho * torch.log1p(u * torch.expm1((last - first) / self.rho)))


def _ends(sde: SDE) -> Tensor:
    """log(sigma / alpha) at t = 1 and at t_min."""
    return sde.log_noise_ratio(torch.tensor([1.0, sde.t_min], dtype=torch.float64))
