"""Predictors: the declared order of convergence, measured without noise on Gaussian data, and exact bookkeeping."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from scoresde_core import SDE, Level, Past, Predictor, Schedule, advance, unserved
from .affine import Independent, Score, entries_of, law_error, respond, slope
from .candidate import Candidate
from .counterparts import pairs
from .exact import Mixture, Watched, gaussian, times_between
from .expect import is_zero, some

COUNTS = (48, 96, 192)  # the numbers of steps over which the error falls

MORE = (384, 768)
"""Those where it falls faster than declared: the declared order is that of the limit, which an error of higher order
may hide in short runs, as that of a polynomial does the smaller one of the noise."""

AFTER = torch.tensor([0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64)
"""Further times of these runs, as shares of the last one: a method that lowers its order at the end does so there."""

ROUNDING = 1e-10  # smaller errors are rounding errors of float64, and have no order


def observed_order(predictor: Predictor, sde: SDE, counts: tuple[int, ...] = COUNTS) -> tuple[float, list[float]]:
    """Return the slope of -log error over log steps, nan if all errors are rounding errors; and the errors."""
    between = [times_between(sde, steps) for steps in counts]
    errors = [law_error(predictor, sde, len(t) - 1, torch.cat([t, t[-1] * AFTER])) for t in between]
    return slope(counts, errors, ROUNDING), errors


def _converging(candidate: Candidate, *, crossed: bool = False) -> Iterator[tuple[Predictor, SDE]]:
    found = (pair for pair in pairs(candidate, crossed=crossed) if pair[0].order is not None)
    return some(found, "it declares no order: it does not converge by itself")


def _wider(candidate: Candidate) -> Iterator[tuple[Predictor, SDE]]:
    """Yield the variants with the processes to an observation, of one coefficient an entry, or of coupled variables."""
    for label, sde in candidate.partners("sdes", shipped=candidate.full):
        if entries_of(sde) and (sde.form in ("diagonal", "blocks") or sde.needs):
            for variant, predictor in candidate.variants():
                candidate.trying = f"{variant} under sde {label}"
                if predictor.order is not None and not (unserved(predictor, sde) or predictor.skip(sde)):
                    yield predictor, sde


def converges_in_its_order(candidate: Candidate) -> None:
    """On Gaussian data the final law has the declared order, within 0.3; ``first_order`` if it starts near."""
    for predictor, sde in chain(_converging(candidate, crossed=True), _wider(candidate)):
        found, errors = observed_order(predictor, sde)
        assert all(map(math.isfinite, errors)), f"step has errors {errors} after {COUNTS} steps"
        order, end = predictor.order or 0, torch.tensor(sde.t_max, dtype=torch.float64)
        if sde.form == "scalar" and float(sde.alpha(end)) > 0.1 * float(sde.sigma(end)):
            order = min(order, getattr(predictor, "first_order", order))
        # No order is found if all errors are rounding errors: the steps are exact on Gaussian data.
        # Several coefficients at once hide a small leading term of one of them: there the order may come out higher.
        most = 0.3 if sde.form == "scalar" else math.inf
        if found - order > most and predictor.stochastic:
            found, errors = observed_order(predictor, sde, MORE)
        assert math.isnan(found) or -0.3 <= found - order <= most, (
            f"order is {order:g}, but step converges in order {found:.2f}: "
            f"errors {', '.join(f'{e:.2g}' for e in errors)} after {', '.join(map(str, COUNTS))} steps"
        )


def finds_both_modes(candidate: Candidate) -> None:
    """On a mixture, 100 steps (400 of an order below 2) give the moments and mode weights within 4 standard errors."""
    data, n = Mixture(event=(1,)), 2000
    for predictor, sde in _converging(candidate):
        steps = 100 if (predictor.order or 0) >= 2 else 400
        schedule, model = Schedule(sde, times_between(sde, steps)), Watched(data)
        first, last = schedule[0].now, schedule[-1].next
        x = first.alpha * data.sample(n).double() + first.sigma * torch.randn(n, 1, dtype=torch.float64)
        past = Past()
        for step in schedule.steps:
            x, _, past = advance(predictor, x, step, model, partial(torch.randn_like, x), past)
        for name, values, expected in _statistics(data, last, x.flatten()):
            is_zero(values - expected, f"{name} after {steps} steps from the exact marginal, from {expected:.4f},")


def _statistics(data: Mixture, level: Level, x: Tensor) -> list[tuple[str, Tensor, float]]:
    """Return name, values of all samples, and exact mean of the first two moments and of the right mode's weight."""
    mean, variance = data.coordinate(level)
    width = math.sqrt((level.alpha * data.std) ** 2 + level.sigma**2)
    tails = [0.5 * math.erfc(-level.alpha * m / width / math.sqrt(2)) for m in data.means]
    right = sum(w * tail for w, tail in zip(data.weights, tails, strict=True))
    return [
        ("the mean", x, mean),
        ("the variance", (x - mean).square(), variance),
        ("the share above 0", (x > 0).double(), right),
    ]


def is_as_stochastic_as_it_says(candidate: Candidate) -> None:
    """``stochastic`` is whether it draws noise; without noise, the state is its own mean."""
    for predictor, sde in pairs(candidate):
        schedule = Schedule(sde, times_between(sde, 12))
        _, drawn = respond(predictor, Score(Independent(3), sde), schedule.steps)
        told = f"stochastic is {predictor.stochastic}, but 12 steps draw noise {drawn} times"
        assert (drawn > 0) == predictor.stochastic, told
        x = torch.randn(6, 2)
        step = schedule[3]
        moved, mean, _ = advance(predictor, x, step, Watched(gaussian(event=(2,))), partial(torch.ones_like, x), ())
        assert predictor.stochastic or torch.equal(moved, mean), "step draws no noise, but its state is not its mean"


def ends_at_the_data(candidate: Candidate) -> None:
    """From little noise, a last step to clean data (alpha 1, sigma 0) ends near E[x_0 | x]."""
    for predictor, sde in _converging(candidate, crossed=True):
        step = Schedule(sde, torch.tensor([max(sde.t_min, 1e-3), 0.0], dtype=torch.float64))[0]
        data = gaussian(0.5, 0.5, (4,))
        x0 = data.sample(64).double()
        x = step.now.alpha * x0 + step.now.sigma * torch.randn_like(x0)
        _, mean, _ = advance(predictor, x, step, Watched(data), partial(torch.zeros_like, x), ())
        far = float((mean - Watched(data).denoised(x, step.now)).abs().max())
        near = 3 * step.now.sigma + 1e-3
        assert far <= near, f"the mean at the data is {far:.3g} from E[x_0 | x], expected at most {near:.3g}"


def forgets_between_runs(candidate: Candidate) -> None:
    """Its memory belongs to the run: another run in between does not change the next one."""
    for predictor, sde in pairs(candidate, crossed=True):
        model = Score(Independent(3), sde)
        first, _, again = (respond(predictor, model, Schedule(sde, times_between(sde, n)).steps)[0] for n in (7, 5, 7))
        assert torch.equal(first, again), "the same run gives another result the second time"
