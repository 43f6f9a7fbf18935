"""The times of a sampler and all that depends on time alone, computed once in float64 before the loop.

N steps visit N noise levels: ``times`` holds N + 1 values, 1 = times[0] > ... > times[N-1] = t_min > times[N] = 0.
The last step leads from ``t_min`` to clean data, as in the papers' loops, whose final mean is the denoised sample.
A grid of times that were searched may end above ``t_min``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection

import attrs
import torch
from torch import Tensor
from .sde import SDE, Level, Scalar


class Grid(ABC):
    """The times of N steps for an SDE."""

    counts: Collection[int] | None = None
    """The numbers of steps that it has times for; None: any."""

    @abstractmethod
    def times(self, sde: SDE, steps: int) -> Tensor:
        """(steps + 1,) float64, decreasing from 1 through ``sde.t_min`` to 0; a single step goes from 1 to 0."""

    def skip(self, sde: SDE) -> str | None:
        """Why this grid has no times for ``sde``, or None."""
        return None

    def skip_steps(self, sde: SDE, steps: int) -> str | None:
        """Why this grid has no times of ``steps`` steps for ``sde``, or None."""
        if self.counts is None or steps in self.counts:
            return self.skip(sde)
        return f"{self} has times for {' or '.join(map(str, self.counts))} steps, not for {steps}: take one of these"


@attrs.frozen
class Step:
    """One reverse-time step, from level ``now`` to level ``next``; floats, or tensors that broadcast against the state.

    ``drift_rate`` and ``diffusion`` are f and g at ``now``; ``discrete_*`` is the SDE's chain (``SDE.discretize``),
    ``transition_*`` its transition (``SDE.transition``); NaN where it has none. ``sde`` serves stages between the ends.
    """

    index: int
    count: int
    now: Level
    next: Level
    diffusion: Scalar
    drift_rate: Scalar = math.nan
    discrete_drift: Scalar = math.nan
    discrete_diffusion: Scalar = math.nan
    transition_scale: Scalar = math.nan
    transition_std: Scalar = math.nan
    backward_std: Scalar = math.nan
    sde: SDE = attrs.field(kw_only=True, repr=False)

    @property
    def dt(self) -> Scalar:
        """The length of the step, positive."""
        return self.now.t - self.next.t

    def at_noise_ratio(self, noise_ratio: Scalar) -> Level:
        """The level where sigma / alpha is ``noise_ratio``, at most that of t = 1; see :meth:`level`."""
        ratio = torch.as_tensor(noise_ratio, dtype=torch.float64).log()
        return self.level(self.sde.time_at(ratio.mean() if self.sde.form == "diagonal" else ratio))

    def level(self, t: Scalar) -> Level:
        """The level at ``t``, as floats or tensors like those of the step."""
        like = self.now.alpha
        if self.sde.form == "diagonal" or not isinstance(like, Tensor):
            return self.sde.level_at(float(t), like)  # type: ignore[arg-type]
        t = torch.as_tensor(t, dtype=torch.float64)
        return Level(t, self.sde.alpha(t).to(like), self.sde.sigma(t).to(like))


class Schedule:
    """The steps of a process over decreasing ``times`` (N + 1,), as Python floats, so the loop needs no device.

    A process with more than one coefficient needs a state ``x``, whose shape and device its coefficients get.
    """

    def __init__(self, sde: SDE, times: Tensor, x: Tensor | None = None) -> None:
        times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
        if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()) or float(times[-1]) < 0:
            raise ValueError(f"times must be at least two decreasing values in [0, 1], got {times.tolist()}")
        levels, columns = sde.levels(times, x), sde.step_numbers(times, x)
        last = len(levels) - 1
        rows = zip(*columns.values(), strict=True)
        self.steps = [
            Step(k, last, levels[k], levels[k + 1], **dict(zip(columns, row, strict=True)), sde=sde)
            for k, row in enumerate(rows)
        ]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]
