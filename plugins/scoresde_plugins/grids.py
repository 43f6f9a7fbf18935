r"""Grids: the times of a sampler's N steps, from t_max to t_min of the SDE; the last step leads from t_min to the data.

A grid maps the unit interval to times; the sampler gives the number of steps, the SDE the ends. Where the signal
vanishes at t_max, log(sigma / alpha) is infinite: grids spaced in it are placed as if sampling began at
``SDE.t_signal``, and then begin at t_max instead. Evaluations at both times would give the mean of the data twice.
"""

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import attrs
import numpy as np
import torch
from attrs.validators import gt
from torch import Tensor
from scoresde_core import SDE, Grid, param


@attrs.frozen
class _Spread(Grid):
    """N times from t_max to t_min, spread by :meth:`place`, then 0."""

    def times(self, sde: SDE, steps: int) -> Tensor:
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {steps}")
        own = sde.until(sde.t_signal) if self.spaced_in_noise and sde.t_signal < sde.t_max else sde
        inner = self.place(own, torch.linspace(0, 1, steps, dtype=torch.float64))
        inner[-1] = sde.t_min  # exact at the ends
        inner[0] = sde.t_max
        times = torch.cat([inner, inner.new_zeros(1)])
        if not bool((times.diff() < 0).all()):
            raise ValueError(
                f"{self!r} does not give {steps} different times between {sde.t_max:g} and {sde.t_min:g} under {sde!r}"
                ": use less extreme parameters, or fewer steps"
            )
        return times

    spaced_in_noise: ClassVar[bool] = False
    """Whether times follow from log(sigma / alpha)."""

    def skip(self, sde: SDE) -> str | None:
        """Refuse times that follow from a noise that the process does not state."""
        if self.spaced_in_noise and sde.form == "nonlinear":
            return f"{self} follows log(sigma / alpha), which {type(sde).__name__} has not: take the grid uniform"
        return None

    @abstractmethod
    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """Return times for ``u`` from 0 (t_max) to 1 (t_min)."""


@attrs.frozen
class UniformGrid(_Spread):
    """Evenly spaced in t: the grid of the published code."""

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """t_max + u (t_min - t_max)."""
        return sde.t_max + u * (sde.t_min - sde.t_max)


@attrs.frozen
class QuadraticGrid(_Spread):
    """Evenly spaced in sqrt(t): more steps near the data (DDIM, arXiv:2010.02502, Appendix D.2)."""

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """The square of values from sqrt(t_max) to sqrt(t_min)."""
        first = math.sqrt(sde.t_max)
        return (first + u * (math.sqrt(sde.t_min) - first)).square()


@attrs.frozen
class LogSNRGrid(_Spread):
    """Evenly spaced in log(alpha / sigma) (DPM-Solver, arXiv:2206.00927, Section 3.4)."""

    spaced_in_noise = True

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """The times at which log(sigma / alpha) falls linearly in u."""
        first, last = _ends(sde)
        return sde.time_at(first + u * (last - first))


@attrs.frozen
class KarrasGrid(_Spread):
    """(sigma / alpha)^(1/rho) evenly spaced (Karras et al. 2022, arXiv:2206.00364, Eq. 5)."""

    spaced_in_noise = True

    rho: float = param(7.0, "larger puts more steps near the data", gt(0))

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """The times at which (sigma / alpha)^(1/rho) falls linearly in u."""
        first, last = _ends(sde)
        # The logarithm of (first^(1/rho) + u (last^(1/rho) - first^(1/rho)))^rho, without overflow.
        return sde.time_at(first + self.rho * torch.log1p(u * torch.expm1((last - first) / self.rho)))


AYS = {
    "sd15": (14.615, 6.475, 3.864, 2.695, 1.884, 1.394, 0.964, 0.652, 0.398, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""sigma / alpha at the ends of the 10 steps that were published for three models; for sd15 as its 11 timesteps."""


@attrs.frozen
class AlignYourStepsGrid(_Spread):
    """A published list of noise levels sigma / alpha, interpolated log-linearly (Sabour et al. 2024, arXiv:2404.14507).

    The ends of the process stand for those of the list; entries between them that are beyond the ends are left out.
    The list has 11 levels, so that it is met as published by 11 steps, the last of which leads to the data.
    """

    spaced_in_noise = True
    variants: ClassVar = ({"model": "sd15"}, {"model": "svd"})

    model: Literal["sd15", "sdxl", "svd"] = param("sdxl", "the model that the list was made for")

    def place(self, sde: SDE, u: Tensor) -> Tensor:
        """The times at which log(sigma / alpha) lies at u of the way along the list."""
        first, last = _ends(sde).tolist()
        nodes = [first, *(s for s in np.log(AYS[self.model][1:-1]) if last < s < first), last]
        return sde.time_at(torch.from_numpy(np.interp(u.numpy(), np.linspace(0, 1, len(nodes)), nodes)))


def _ends(sde: SDE) -> Tensor:
    """log(sigma / alpha) at t_max and at t_min."""
    return sde.log_noise_ratio(torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64))
