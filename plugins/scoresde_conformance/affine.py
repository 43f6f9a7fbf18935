"""The law of a run on Gaussian data, without samples, for any linear process.

With an affine score every linear solver is an affine map of its start and its noises. So one run of many rows gives its
law: row 0 starts at 0, row j at the j-th unit vector, and each further row gets one entry of one of the noises. The
state then has mean b + M m and covariance M C M^T + N N^T: no sample is drawn.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from scoresde_core import SDE, Level, Past, Predictor, Schedule, ScoreModel, Step, advance

MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
STD = torch.tensor([0.5, 0.3, 1.4], dtype=torch.float64)
"""Independent entries with different means and stds, so that no error vanishes by chance in all of them."""


class Independent:
    """Independent Gaussian entries, as a target."""

    def __init__(self, entries: int) -> None:
        self.mean, self.std = MEAN[:entries], STD[:entries]

    def score(self, x: Tensor, level: Level) -> Tensor:
        """The score at a level, with one alpha and sigma or one an entry."""
        score: Tensor = (level.alpha * self.mean - x) / ((level.alpha * self.std) ** 2 + level.sigma**2)
        return score


class Score(ScoreModel):
    """The exact score of :class:`Independent` entries in the frame of a process."""

    def __init__(self, data: Independent, sde: SDE) -> None:
        self.data, self.sde, self.shape = data, sde, (len(data.mean),)

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        return self.sde.score_of(self.data, x, level) if self.sde.form == "blocks" else self.data.score(x, level)


class _Probe:
    """Noise of zeros, but one draw's unit vectors in ``size`` rows of its own."""

    def __init__(self, size: int, draws: int) -> None:
        self.size, self.drawn, self.rows = size, 0, 1 + size * (1 + draws)

    def __call__(self) -> Tensor:
        z, first = torch.zeros(self.rows, self.size, dtype=torch.float64), 1 + self.size * (1 + self.drawn)
        z[first : first + self.size] = torch.eye(self.size)[: max(0, self.rows - first)]
        self.drawn += 1
        return z


def entries_of(sde: SDE) -> int | None:
    """The number of entries of vectors that a process takes, at most 3; None if it takes none."""
    return next((n for n in (3, 2, 1) if sde.skip((n,)) is None), None)


def respond(predictor: Predictor, model: ScoreModel, run: Sequence[Step], draws: int = 0) -> tuple[Tensor, int]:
    """The states of all rows after the steps of ``run``, with rows for ``draws`` noises; and the number of draws."""
    size = model.shape[0] * model.sde.parts
    probe, past = _Probe(size, draws), Past()
    x = torch.zeros(probe.rows, size, dtype=torch.float64)
    x[1 : 1 + size] = torch.eye(size)
    for step in run:
        x, _, past = advance(predictor, x, step, model, probe, past)
    return x, probe.drawn


def law(
    predictor: Predictor, model: ScoreModel, run: Sequence[Step], mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean and covariance of the state after the steps of ``run``, from those of a Gaussian start (size,)."""
    rows = len(run) * respond(predictor, model, run[1:2])[1]
    x, drawn = respond(predictor, model, run, rows)
    if drawn > rows:  # more than in one step of its own: once more, with rows for all
        x, _ = respond(predictor, model, run, drawn)
    offset, moved = x[0], x[1:] - x[0]
    first, noises = moved[: len(mean)].T, moved[len(mean) :].T
    return offset + first @ mean, first @ covariance @ first.T + noises @ noises.T


def law_error(predictor: Predictor, sde: SDE, steps: int, times: Tensor) -> float:
    """The errors of mean and covariance after the first ``steps`` steps on ``times``, summed, over the exact ones."""
    data = Independent(entries_of(sde) or 1)
    size = len(data.mean) * sde.parts
    run = Schedule(sde, times, torch.zeros(1, size, dtype=torch.float64)).steps[:steps]
    goal = _law(data, sde, run[-1].next, size)
    mean, spread = law(predictor, Score(data, sde), run, *_law(data, sde, run[0].now, size))
    scale = goal[1].diagonal().sqrt()
    return float(((mean - goal[0]) / scale).abs().sum() + ((spread - goal[1]) / scale / scale[:, None]).abs().sum())


def _law(data: Independent, sde: SDE, level: Level, size: int) -> tuple[Tensor, Tensor]:
    made = ((value, value * torch.eye(size, dtype=torch.float64)) for value in (level.alpha, level.sigma))
    # What a coefficient makes of the unit vectors, as rows, is its matrix, transposed if it is a block.
    alpha, sigma = (found if isinstance(value, float | Tensor) else found.T for value, found in made)
    mean, std = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    mean[: len(data.mean)], std[: len(data.mean)] = data.mean, data.std
    return alpha @ mean, alpha @ std.square().diag() @ alpha.T + sigma @ sigma.T


def slope(counts: tuple[int, ...], errors: list[float], rounding: float) -> float:
    """The slope of -log error over log steps; nan if all errors are rounding errors."""
    points = [(math.log(n), math.log(e)) for n, e in zip(counts, errors, strict=True) if e > rounding]
    if len(points) < 2:
        return math.nan
    log_steps, log_errors = zip(*points, strict=True)
    return -float(np.polyfit(log_steps, log_errors, 1)[0])
