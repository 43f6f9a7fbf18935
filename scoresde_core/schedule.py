"""The times of a sampler and all that depends on time alone, computed once in float64 before the loop.

N steps visit N noise levels: ``times`` holds N + 1 values, 1 = times[0] > ... > times[N-1] = t_min > times[N] = 0.
The last step leads from ``t_min`` to clean data, as in the papers' loops, whose final mean is the denoised sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import attrs
import torch
from torch import Tensor

from .sde import DATA, SDE, Level, Scalar


class Grid(ABC):
    """The times of N steps for an SDE."""

    @abstractmethod
    def times(self, sde: SDE, steps: int) -> Tensor:
        """(steps + 1,) float64, decreasing from 1 through ``sde.t_min`` to 0; a single step goes from 1 to 0."""


@attrs.frozen
class Step:
    """One reverse-time step, from level ``now`` to level ``next``; floats, or tensors that broadcast against the state.

    ``drift_rate`` and ``diffusion`` are f and g at ``now``; ``discrete_*`` is the SDE's chain (``SDE.discretize``),
    ``transition_*`` its transition (``SDE.transition``). ``sde`` is for methods that evaluate between the ends.
    """

    index: int
    count: int
    now: Level
    next: Level
    drift_rate: Scalar
    diffusion: Scalar
    discrete_drift: Scalar
    discrete_diffusion: Scalar
    transition_scale: Scalar
    transition_std: Scalar
    backward_std: Scalar
    sde: SDE = attrs.field(repr=False)

    @property
    def dt(self) -> Scalar:
        """The length of the step, positive."""
        return self.now.t - self.next.t

    def at_noise_ratio(self, noise_ratio: Scalar) -> Level:
        """The level where sigma / alpha is ``noise_ratio``, at most that of t = 1; see :meth:`level`."""
        return self.level(self.sde.time_at(torch.as_tensor(noise_ratio, dtype=torch.float64).log()))

    def level(self, t: Scalar) -> Level:
        """The level at ``t``, as floats or tensors like those of the step."""
        like = self.now.alpha
        if not isinstance(like, Tensor):
            return self.sde.float_level(float(t))
        t = torch.as_tensor(t, dtype=torch.float64)
        return Level(t, self.sde.alpha(t).to(like), self.sde.sigma(t).to(like))


class Schedule:
    """The steps of an SDE over decreasing ``times`` (N + 1,), as Python floats, so the loop needs no device."""

    def __init__(self, sde: SDE, times: Tensor) -> None:
        times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
        if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()) or float(times[-1]) < 0:
            raise ValueError(f"times must be at least two decreasing values in [0, 1], got {times.tolist()}")
        alpha, sigma = sde.scales(times)
        levels = [Level(*row) for row in zip(times.tolist(), alpha.tolist(), sigma.tolist(), strict=True)]
        if levels[-1].t == 0:
            levels[-1] = DATA
        chain, exact = sde.discretize(times), sde.transition(times)
        columns = {
            "drift_rate": sde.drift_rate(times[:-1]),
            "diffusion": sde.diffusion(times[:-1]),
            "discrete_drift": chain.drift,
            "discrete_diffusion": chain.std,
            "transition_scale": exact.scale,
            "transition_std": exact.std,
            "backward_std": exact.backward_std,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        last = len(levels) - 1
        self.steps = [
            Step(k, last, levels[k], levels[k + 1], **dict(zip(columns, row, strict=True)), sde=sde)
            for k, row in enumerate(rows)
        ]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]
