"""A sampler's times, and everything that depends on time alone, computed once in float64 before the loop.

N steps visit N noise levels: ``times`` holds N + 1 values, 1 = times[0] > ... > times[N-1] = t_min > times[N] = 0.
The last step leads from ``t_min`` to clean data, as in the papers' loops, whose final mean is the denoised sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import attrs
import torch
from torch import Tensor

from .sde import DATA, SDE, Level, Scalar


class Grid(ABC):
    """The times of N steps for an SDE."""

    @abstractmethod
    def times(self, sde: SDE, steps: int) -> Tensor:
        """(steps + 1,) float64, decreasing from 1 through ``sde.t_min`` to 0; one step goes from 1 to 0."""


class _Memory(dict[str, Any]):
    """What the steps of a schedule remember, for one run at a time."""

    latest: int | None = None

    def of(self, index: int) -> _Memory:
        """Itself, emptied where step ``index`` begins another run: it is neither the latest step nor the next."""
        if self.latest is not None and index not in (self.latest, self.latest + 1):
            self.clear()
        self.latest = index
        return self


@attrs.frozen
class Step:
    """One reverse-time step, from level ``now`` to level ``next``; floats, or tensors that broadcast against the state.

    ``drift_rate`` and ``diffusion`` are f and g at ``now``; ``discrete_*`` the SDE's own chain (``SDE.discretize``);
    ``transition_*`` its transition (``SDE.transition``). ``sde`` is for methods that evaluate between the two ends.
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
    _memory: dict[str, Any] = attrs.field(factory=_Memory, eq=False, repr=False)

    @property
    def memory(self) -> dict[str, Any]:
        """What multistep methods remember of the run, shared by all steps of a schedule.

        It holds lists, tuples and dictionaries of tensors with a row a sample, which a condition may choose rows from.
        A schedule may be used for one run after another: where a step asks that does not follow the one that asked
        last, another run has begun, and the memory is empty. Runs that take turns need a schedule each. A dictionary
        that was given to the step is its giver's, who empties it.
        """
        return self._memory.of(self.index) if isinstance(self._memory, _Memory) else self._memory

    @property
    def dt(self) -> Scalar:
        """Length of the step, positive."""
        return self.now.t - self.next.t

    def level_at(self, noise_ratio: Scalar) -> Level:
        """The level where sigma / alpha is ``noise_ratio``, at most that of t = 1; see :meth:`level`."""
        return self.level(self.sde.time_at(torch.as_tensor(noise_ratio, dtype=torch.float64).log()))

    def level(self, t: Scalar) -> Level:
        """The level at ``t``; floats, or tensors like the step's."""
        found, like = self.sde.level(torch.as_tensor(t, dtype=torch.float64)), self.now.alpha
        if isinstance(like, Tensor):
            return Level(found.t, found.alpha.to(like), found.sigma.to(like))
        return Level(float(found.t), float(found.alpha), float(found.sigma))


class Schedule:
    """The steps of an SDE over decreasing ``times`` (N + 1,), as Python floats: no device is touched in the loop."""

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
            "discrete_diffusion": chain.diffusion,
            "transition_scale": exact.scale,
            "transition_std": exact.std,
            "backward_std": exact.backward_std,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        last, memory = len(levels) - 1, _Memory()
        self.steps = [
            Step(k, last, levels[k], levels[k + 1], **dict(zip(columns, row, strict=True)), sde=sde, memory=memory)
            for k, row in enumerate(rows)
        ]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]
