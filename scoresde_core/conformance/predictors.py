r"""Predictors: the declared order of convergence, measured without noise on Gaussian data, and exact bookkeeping.

With an affine score every linear solver is an affine map of the start and of its noises, so one run tells its law: row
0 starts at 0 and row 1 at 1, both without noise, and every further row hears a single one of the noises. From N(m, v)
at t = 1 the state at the end is normal with mean ``b + a m`` and variance ``a^2 v + sum_k c_k^2``: no sample is drawn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..schedule import Schedule
from ..sde import DATA, SDE, Level
from ..steps import Predictor
from .exact import Mixture, Watched, by_row, gaussian, sdes, times_between
from .samplers import steps_split_alike
from .suite import Skip, Subject

DATA_SETS = ((0.5, 0.5), (-1.0, 0.3), (0.2, 1.4))
"""Mean and std of the Gaussians on which the order is measured: errors are added, so that none vanishes by luck."""

COUNTS = (48, 96, 192)
"""The numbers of steps between which the error falls."""

ROUNDING = 1e-10
"""Errors below this are of float64's arithmetic, and have no order."""


class _Ear:
    """Noise for probing: every row hears zeros, except that each draw is a single 1 for a row of its own."""

    def __init__(self, rows: int) -> None:
        self.rows, self.drawn = rows, 0
        self.x: Tensor = torch.zeros(rows, 1, dtype=torch.float64)
        self.x[1:2] = 1

    def __call__(self) -> Tensor:
        z = torch.zeros_like(self.x)
        z[2 + self.drawn : 3 + self.drawn] = 1
        self.drawn += 1
        return z


def _run(predictor: Predictor, schedule: Schedule, data: Mixture, rows: int) -> _Ear:
    """The states at the end of one run, and the number of draws."""
    ear, x, model = _Ear(rows), _Ear(rows).x, Watched(data)
    for step in schedule.steps:
        x, _ = predictor.step(x, step, model, ear)
    ear.x = x
    return ear


def error(predictor: Predictor, sde: SDE, steps: int) -> float:
    """Error of mean and std after ``steps`` steps from the exact marginal, in units of the exact std, summed."""
    times, total = times_between(sde, steps), 0.0
    draws = _run(predictor, Schedule(sde, times), gaussian(), 2).drawn
    for mean, std in DATA_SETS:
        schedule = Schedule(sde, times)
        first, last = schedule[0].now, schedule[-1].next
        ends = _run(predictor, schedule, gaussian(mean, std), 2 + draws).x[:, 0]
        offset, slope, noises = ends[0], ends[1] - ends[0], ends[2:] - ends[0]
        variance = slope.square() * ((first.alpha * std) ** 2 + first.sigma**2) + noises.square().sum()
        exact = math.sqrt((last.alpha * std) ** 2 + last.sigma**2)
        total += abs(float(offset + slope * first.alpha * mean) - last.alpha * mean) / exact
        total += abs(math.sqrt(float(variance)) / exact - 1)
    return total


def observed_order(predictor: Predictor, sde: SDE) -> tuple[float, list[float]]:
    """The slope of -log error over log steps, nan where the errors are rounding alone; and the errors."""
    errors = [error(predictor, sde, steps) for steps in COUNTS]
    points = [(math.log(n), math.log(e)) for n, e in zip(COUNTS, errors, strict=True) if e > ROUNDING]
    if len(points) < 2:
        return math.nan, errors
    log_steps, log_errors = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    log_steps -= log_steps.mean()
    return -float((log_steps * log_errors).sum() / log_steps.square().sum()), errors


def converges_in_its_order(subject: Subject) -> None:
    """On Gaussian data, with every SDE, the law at the end converges in the declared order, within 0.3."""
    applies = False
    for variant, predictor in subject.variants():
        if predictor.order is None:
            continue
        applies = True
        for label, sde in sdes(subject):
            found, errors = observed_order(predictor, sde)
            # Where all errors are rounding, the steps are exact on Gaussian data.
            assert not abs(found - predictor.order) > 0.3 and all(map(math.isfinite, errors)), (
                f"{variant} with {label} converges in order {found:.2f}, declared {predictor.order:g}: "
                f"errors {', '.join(f'{e:.2g}' for e in errors)} in {', '.join(map(str, COUNTS))} steps"
            )
    if not applies:
        raise Skip("it declares no order: it does not converge by itself")


def finds_both_modes(subject: Subject) -> None:
    """On a mixture, 400 steps give the exact moments and mode weights within 4 standard errors."""
    data, n, steps, applies = Mixture(event=(1,)), 2000, 400, False
    for variant, predictor in subject.variants():
        if predictor.order is None:
            continue
        applies = True
        for label, sde in sdes(subject):
            schedule, model = Schedule(sde, times_between(sde, steps)), Watched(data)
            first, last = schedule[0].now, schedule[-1].next
            x = first.alpha * data.sample(n).double() + first.sigma * torch.randn(n, 1, dtype=torch.float64)
            for step in schedule.steps:
                x, _ = predictor.step(x, step, model, lambda x=x: torch.randn_like(x))
            for name, found, expected in _statistics(data, last, x.flatten()):
                off = float((found.mean() - expected) / (found.std() / math.sqrt(n)))
                assert abs(off) <= 4, (
                    f"{variant} with {label}: {name} is {float(found.mean()):.4f} after {steps} steps, "
                    f"expected {expected:.4f}: {off:+.1f} standard errors away"
                )
    if not applies:
        raise Skip("it declares no order: it does not converge by itself")


def _statistics(data: Mixture, level: Level, x: Tensor) -> list[tuple[str, Tensor, float]]:
    """Name, values of every sample, and exact mean of the first two moments and of the weight of the right mode."""
    mean, variance = data.coordinate(level)
    width = math.sqrt((level.alpha * data.std) ** 2 + level.sigma**2)
    tails = [0.5 * math.erfc(-level.alpha * m / width / math.sqrt(2)) for m in data.means]
    right = sum(w * tail for w, tail in zip(data.weights, tails, strict=True))
    return [
        ("the mean", x, mean),
        ("the variance", (x - mean).square(), variance),
        ("the share above 0", (x > 0).double(), right),
    ]


def counts_are_stable(subject: Subject) -> None:
    """Every run evaluates the model equally often, through its counter; at least once a step if it converges."""
    sde = sdes(subject)[0][1]
    for variant, predictor in subject.variants():
        counts = []
        for rows in (1, 7, 7):
            model, x = Watched(gaussian()), torch.randn(rows, 1)
            for step in Schedule(sde, times_between(sde, 12)).steps:
                x, _ = predictor.step(x, step, model, lambda x=x: torch.randn_like(x))
            assert model.calls == model.evaluations, (
                f"{variant} ran the model {model.evaluations} times, but {model.calls} were counted"
            )
            counts.append(model.calls)
        assert len(set(counts)) == 1, f"{variant} evaluates the model {counts} times in three runs of 12 steps"
        assert counts[0] >= 12 or predictor.order is None, (
            f"{variant} evaluates the model {counts[0]} times in 12 steps"
        )


def is_as_stochastic_as_it_says(subject: Subject) -> None:
    """``stochastic`` tells whether it draws noise; without noise, the state is its own mean."""
    for variant, predictor in subject.variants():
        schedule = Schedule(sdes(subject)[0][1], times_between(sdes(subject)[0][1], 12))
        ear = _run(predictor, schedule, gaussian(), 2)
        assert (ear.drawn > 0) == predictor.stochastic, (
            f"{variant} draws noise {ear.drawn} times in 12 steps, but declares stochastic = {predictor.stochastic}"
        )
        x = torch.randn(6, 2)
        moved, mean = predictor.step(x, schedule[3], Watched(gaussian(event=(2,))), lambda: torch.ones(6, 2))
        assert predictor.stochastic or torch.equal(moved, mean), f"{variant} draws no noise, but differs from its mean"


def keeps_shape_and_dtype(subject: Subject) -> None:
    """The state and its mean are like x, for any rank and float dtype, at any step; x is left as it was."""
    for variant, predictor in subject.variants():
        for label, sde in sdes(subject):
            for shape, dtype in (((5, 2), torch.float32), ((5, 3, 4, 4), torch.float64)):
                schedule = Schedule(sde, torch.tensor([1.0, 0.5, sde.t_min, 0.0], dtype=torch.float64))
                x = torch.randn(shape, dtype=dtype)
                for step in schedule.steps:
                    kept = x.clone()
                    moved = predictor.step(x, step, Watched(gaussian(event=shape[1:])), lambda x=x: torch.randn_like(x))
                    assert torch.equal(x, kept), f"{variant} with {label} changed x in place"
                    for name, value in zip(("state", "mean"), moved, strict=True):
                        found = (tuple(value.shape), value.dtype)
                        assert found == (shape, dtype), f"{variant} with {label}: the {name} is {found}"
                        assert bool(value.isfinite().all()), (
                            f"{variant} with {label}: the {name} is not finite from t = {step.now.t} to {step.next.t}"
                        )
                    x = moved[0]


def ends_at_the_data(subject: Subject) -> None:
    """A last step to clean data (alpha 1, sigma 0) leads near E[x_0 | x] from a little noise."""
    applies = False
    for variant, predictor in subject.variants():
        if predictor.order is None:
            continue
        applies = True
        for label, sde in sdes(subject):
            t = max(sde.t_min, 1e-3)
            step = Schedule(sde, torch.tensor([t, 0.0], dtype=torch.float64))[0]
            assert step.next is DATA
            data = gaussian(0.5, 0.5, (4,))
            x0 = data.sample(64).double()
            x = step.now.alpha * x0 + step.now.sigma * torch.randn_like(x0)
            _, mean = predictor.step(x, step, Watched(data), lambda x=x: torch.zeros_like(x))
            exact = Watched(data).denoised(x, step.now)
            far, near = float((mean - exact).abs().max()), 3 * step.now.sigma + 1e-3
            assert far <= near, (
                f"{variant} with {label}: the last mean is {far:.3g} from E[x_0 | x], expected {near:.3g}"
            )
    if not applies:
        raise Skip("it declares no order: it does not converge by itself")


def forgets_between_runs(subject: Subject) -> None:
    """What it remembers lives in the run: a run in between leaves no trace in the next."""
    label, sde = sdes(subject)[0]
    for variant, predictor in subject.variants():
        first, _, again = (_run(predictor, Schedule(sde, times_between(sde, n)), gaussian(), 2).x for n in (7, 5, 7))
        assert torch.equal(first, again), f"{variant} with {label}: the same run gives another result the second time"


def takes_a_time_per_row(subject: Subject) -> None:
    """A step whose numbers are tensors of one value a row is what each row's own step gives."""
    for variant, predictor in subject.variants():
        for label, sde in sdes(subject):
            stacked, steps = by_row(sde, times_between(sde, 6), 4, 2)
            data, x, z = gaussian(event=(3, 2)), torch.randn(4, 3, 2).double(), torch.randn(4, 3, 2).double()
            found = predictor.step(x, stacked, Watched(data), lambda z=z: z)
            apart = [
                predictor.step(x[k : k + 1], step, Watched(data), lambda k=k, z=z: z[k : k + 1])
                for k, step in enumerate(steps)
            ]
            for name, value, rows in zip(("state", "mean"), found, zip(*apart, strict=True), strict=True):
                gap = float((value - torch.cat(rows)).abs().max())
                assert gap <= 1e-9 * float(value.abs().max()), (
                    f"{variant} with {label}: with one time a row the {name} is off by {gap:.3g}"
                )


CHECKS = (
    converges_in_its_order,
    finds_both_modes,
    counts_are_stable,
    is_as_stochastic_as_it_says,
    keeps_shape_and_dtype,
    ends_at_the_data,
    forgets_between_runs,
    takes_a_time_per_row,
    steps_split_alike,
)
