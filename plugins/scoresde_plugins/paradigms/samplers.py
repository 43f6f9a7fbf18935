r"""ParaDiGMS: the steps of a window at once, by Picard sweeps (Shih et al. 2023, arXiv:2305.16317, Algorithm 1).

With Phi_j the predictor's step from level j to j + 1, every sweep evaluates Phi_j at the last guess x_j of all states
of a window in one call of the model, and sums up what they say, in the coordinates x / alpha:

    x'_{j+1} = Phi_j(x_j) + (alpha_{j+1} / alpha_j) (x'_j - x_j),        x'_k = x_k

The first state of the window is final, so every sweep makes at least the next one final too, and after N sweeps all
states are those of N steps in turn. Usually fewer are needed: the window moves on past all states whose root mean
square change is below ``tolerance`` sigma, that of the level before. The noise of a step is the same in all sweeps.
There are more evaluations in fewer calls of the model: it is faster where one of many rows takes little longer.
"""

from itertools import count, takewhile
from operator import le
from typing import Any, ClassVar, Self

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import SDE, Grid, Level, Noise, Observer, Sampler, Schedule, ScoreModel, Step, param
from scoresde_core.shapes import expand
from scoresde_core.steps import MultistepPredictor, Predictor, advance, unserved
from ..grids import UniformGrid
from ..song2021.predictors import ReverseDiffusionPredictor


@attrs.frozen
class ParadigmsSampler(Sampler):
    """``steps`` steps of a predictor of one step, ``window`` of them at a time; NFE counts all rows of all sweeps.

    A window moves on when the slowest sample of a batch allows it, so a sample depends on its batch to within the
    tolerance. With ``tolerance=0`` the result is that of ``pc``, to the rounding of the model's batches.
    """

    in_turn = False
    exempt: ClassVar = {
        "draws_no_number_twice": "a step is taken again with the same noise until its state is final",
        "steps_meet_the_state": "steps of a sweep start at guesses of their states",
    }

    predictor: Predictor = param(attrs.Factory(ReverseDiffusionPredictor), "reverse-time step, without a past")
    grid: Grid = param(
        attrs.Factory(lambda self: self.predictor.grid or UniformGrid(), takes_self=True),
        "times of the steps; by default the predictor's own grid, or uniform where it has none",
    )
    steps: int = param(100, "number of predictor steps", ge(1))
    window: int = param(16, "steps that are evaluated together", ge(1))
    tolerance: float = param(0.01, "largest change of a final state, in units of sigma", ge(0))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        *steps, last = Schedule(model.sde, self.grid.times(model.sde, self.steps), x).steps
        k = 0
        if steps and steps[0].now.alpha == 0:
            x, _, _ = advance(self.predictor, x, steps[0], model, noise.at(0, "predictor"), ())
            k = 1
        path = [x]
        while k < len(steps):
            part = steps[k : k + self.window]
            ratios = [step.next.alpha / step.now.alpha for step in part]
            for ratio in ratios[len(path) - 1 :]:
                path.append(path[-1] * ratio)
            new = [x]
            for j, moved in enumerate(self._sweep(torch.stack(path[:-1]), part, model, noise)):
                new.append(moved + (new[j] - path[j]) * ratios[j])
            change = (torch.stack(new) - torch.stack(path))[2:].flatten(2).square().mean(2).amax(1).sqrt()
            allowed = (self.tolerance * step.now.sigma for step in part[1:])
            settled = 1 + sum(1 for _ in takewhile(bool, map(le, change.tolist(), allowed)))
            k, path, x = k + settled, new[settled:], new[settled]
            if observe is not None:
                observe(k, self.steps, x)
        return advance(self.predictor, x, last, model, noise.at(last.index, "predictor"), ())[1]

    def _sweep(self, path: Tensor, part: list[Step], model: ScoreModel, noise: Noise) -> Tensor:
        """Every step of ``part`` from its own state (W, B, ...), in one batch; the states it leads to, alike."""
        rows, draws = path.flatten(0, 1), count()
        known = model.select(torch.arange(path.shape[1], device=path.device).repeat(len(part)))

        def drawn() -> Tensor:
            number = next(draws)
            return torch.cat([noise.draw(step.index, "predictor", number) for step in part])

        return self.predictor.step(rows, _together(part, rows), known, drawn)[0].reshape(path.shape)

    def skip(self, sde: SDE) -> str | None:
        """Refuse a predictor with a past, and what predictor and grid refuse."""
        if isinstance(self.predictor, MultistepPredictor):
            return f"paradigms takes all steps at once, and {type(self.predictor).__name__} needs those before it"
        if self.predictor.idle:
            return "the predictor none moves nothing: take another"
        return (
            unserved(self.predictor, sde)
            or self.grid.skip(sde)
            or self.predictor.skip(sde)
            or self.predictor.skip_times(sde, self.grid, self.steps)
        )

    def decoupled(self) -> Self:
        return attrs.evolve(self, tolerance=0.0)


def _together(part: list[Step], rows: Tensor) -> Step:
    """The steps as one, with the numbers of each in its own rows; times stay float64."""
    each = len(rows) // len(part)

    def column(values: list[float], dtype: torch.dtype) -> Tensor:
        tensor = torch.tensor(values, dtype=dtype, device=rows.device)
        return expand(tensor.repeat_interleave(each), rows)

    def level(levels: list[Level]) -> Level:
        numbers = (column([getattr(level, name) for level in levels], rows.dtype) for name in ("alpha", "sigma"))
        return Level(column([float(level.t) for level in levels], torch.float64), *numbers)

    scalars = [f.name for f in attrs.fields(Step) if f.name not in ("index", "count", "now", "next", "sde")]
    numbers: dict[str, Any] = {name: column([getattr(step, name) for step in part], rows.dtype) for name in scalars}
    now, ahead = (level([getattr(step, name) for step in part]) for name in ("now", "next"))
    return attrs.evolve(part[0], now=now, next=ahead, **numbers)
