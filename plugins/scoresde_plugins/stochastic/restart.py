"""Restart sampling (arXiv:2306.14878, Algorithm 2): forward noise over an interval and the way back, several times."""

import math
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Grid, Predictor, Schedule, Step, param
from ..coordinates import ENTRIES
from ..edm.predictors import HeunPredictor
from ..grids import KarrasGrid
from ..song2021.samplers import PredictorCorrectorSampler


@attrs.frozen
class RestartSampler(PredictorCorrectorSampler):
    """``pc`` that at the level nearest to s_min goes back to s_max = sigma / alpha and down again, K times.

    x_max = alpha_max (x / alpha + sqrt(s_max^2 - s^2) z), from which ``steps`` predictor steps lead back to s on the
    grid ``karras``. The added noise shrinks the error that the run has made, as a stochastic sampler does, while every
    way down is the predictor's: published with ``heun``. Marginals stay exact. A multistep predictor begins anew after
    the noise, and keeps the past of the last way down. Evaluations: those of ``steps``, and K times the interval's.
    """

    exempt: ClassVar = {
        "steps_meet_the_state": "it lifts the state to a higher level, from which the next step starts",
        "passes_on_the_past": "a multistep predictor begins anew after added noise",
    }

    predictor: Predictor = param(attrs.Factory(HeunPredictor), "reverse-time step")
    grid: Grid = param(
        attrs.Factory(lambda self: self.predictor.grid or KarrasGrid(), takes_self=True),
        "times of the steps of the main run; by default the predictor's own grid",
    )
    steps: int = param(18, "number of predictor steps of the main run", attrs.validators.ge(2))
    intervals: tuple[tuple[int, int, float, float], ...] = param(
        ((2, 2, 0.06, 0.3),), "rows of steps, K, s_min and s_max; published with the number of levels, steps + 1"
    )

    serves = ENTRIES  # type: ignore[assignment]

    def __attrs_post_init__(self) -> None:
        for steps, times, low, high in self.intervals:
            if not (steps >= 1 and times >= 0 and 0 < low < high):
                raise ValueError(
                    f"an interval has steps > 0, K >= 0, 0 < s_min < s_max: got {(steps, times, low, high)}"
                )

    def skip(self, sde: SDE) -> str | None:
        """Refuse an interval that holds no level of the grid, or ends beyond that of t = 1."""
        if reason := super().skip(sde) or self.predictor.skip_times(sde, KarrasGrid(), self.steps):
            return reason
        top = float(_ratios(sde, torch.tensor([sde.t_signal], dtype=torch.float64)))
        for _, _, low, high in self.intervals:
            _, s = self._level(sde, self.grid.times(sde, self.steps), low)
            if not s < high <= top:
                what = f"the level of the grid nearest to s_min = {low:g} is {s:.3g}, and that of t = 1 is {top:.3g}"
                return f"{what}, but s_max = {high:g}: take one between them, or more steps"
        return None

    def plan(self, sde: SDE, x: Tensor) -> list[Step]:
        grid = self.grid.times(sde, self.steps)
        before: dict[int, list[Step]] = {}
        for steps, times, low, high in self.intervals:
            k, _ = self._level(sde, grid, low)
            part = sde.until(float(sde.time_at(torch.tensor(math.log(high), dtype=torch.float64))))
            object.__setattr__(part, "t_min", float(grid[k]))
            down = KarrasGrid().times(part, steps + 1)[:-1]
            # Its steps are the first of a run to the data, so that no order falls at their end.
            before.setdefault(k, []).extend(times * Schedule(sde, torch.cat([down, grid[k + 1 :]]), x).steps[:steps])
        return [each for k, step in enumerate(super().plan(sde, x)) for each in (*before.get(k, ()), step)]

    @staticmethod
    def _level(sde: SDE, grid: Tensor, low: float) -> tuple[int, float]:
        """The index of the grid's level nearest to ``low``, neither the first nor the data, and its sigma / alpha."""
        ratios = _ratios(sde, grid[1:-1])
        k = int((ratios - low).abs().argmin())
        return k + 1, float(ratios[k])


def _ratios(sde: SDE, times: Tensor) -> Tensor:
    """sigma / alpha at ``times`` (n,), the geometric mean of several."""
    return sde.log_noise_ratio(times).reshape(len(times), -1).mean(1).exp()
