"""Stochastic samplers on Gaussian data, where each is an affine map: weak and strong orders without Monte Carlo.

The response of the last state to the start and to every single draw gives mean and variance of the samples exactly, and
the difference of two responses to one Brownian path gives the strong error exactly.
"""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from scoresde_core import ExactScore, Schedule, advance, create, sample
from scoresde_core.errors import UsageError

MEAN, STD = 0.5, 0.4
SDES = ["ve", "vp", "subvp", "rectified_flow"]
WEAK = [
    *("sa_solver[max_order=2,corrector_order=2]", "sa_solver[max_order=2,corrector_order=0]", "sa_solver"),
    *("sa_solver[tau=0.5,max_order=2,corrector_order=2]", "sa_solver[max_order=1,corrector_order=0]"),
    *("er_sde", "er_sde[max_order=2,scale=reverse]", "er_sde[max_order=2,scale=er_2]", "er_sde[max_order=1]"),
    *("seeds", "seeds[stages=1]", "seeds[stages=3]", "seeds[eta=0.5]", "dpmpp_3m_sde", "dpmpp_3m_sde[eta=0.5]"),
    *("er_sde[scale=ode]", "seeds[stages=3,eta=0]", "seeds[eta=0]", "dpmpp_3m_sde[eta=0]"),
]


class Gaussian:
    """N(0.5, 0.4^2)."""

    shape = (1,)

    def score(self, x, level):
        return (MEAN * level.alpha - x) / (STD**2 * level.alpha**2 + level.sigma**2)


def levels(sde, s):
    """The times at which sigma / alpha is ``s``."""
    return sde.time_at(torch.as_tensor(s, dtype=torch.float64).log())


def between(sde, steps):
    """Times from sigma / alpha = 20 to 0.05, evenly in its logarithm, and a step to the data after them."""
    return torch.cat([levels(sde, torch.logspace(math.log10(20), math.log10(0.05), steps + 1)), torch.zeros(1)])


def response(predictor, sde, times, draw, rows):
    """The last state at times[-2] for a start in row 1 at 1, in the others at 0; ``draw(k, n)`` is the n-th noise."""
    x = torch.zeros(rows, 1, dtype=torch.float64)
    x[1] = 1
    model, past = ExactScore(Gaussian(), sde), ()
    for k, step in enumerate(Schedule(sde, times).steps[:-1]):
        numbers = iter(range(9))
        x, _, past = advance(predictor, x, step, model, lambda k=k, n=numbers: draw(k, next(n)), past)
    return x


@cache
def gap(name, process, steps):
    """The errors of mean and variance of the samples at sigma / alpha = 0.05, in units of the exact ones, summed."""
    predictor, sde = create("predictors", name), create("sdes", process)
    stages = getattr(predictor, "stages", 1)
    rows, times = 2 + stages * steps, between(sde, steps)

    def unit(k, n):
        z = torch.zeros(rows, 1, dtype=torch.float64)
        z[2 + stages * k + n] = 1
        return z

    x = response(predictor, sde, times, unit, rows)[:, 0]
    first, last = (sde.level(t) for t in (times[0], times[-2]))
    start, goal = (STD**2 * level.alpha**2 + level.sigma**2 for level in (first, last))
    moved = x[1:] - x[0]
    mean = x[0] + moved[0] * MEAN * first.alpha
    variance = moved[0] ** 2 * start + moved[1:].square().sum()
    return float((mean - MEAN * last.alpha).abs() / goal.sqrt() + (variance / goal - 1).abs())


@pytest.mark.parametrize("process", SDES)
@pytest.mark.parametrize("name", WEAK)
def test_mean_and_variance_converge_in_the_declared_order(name, process):
    predictor = create("predictors", name)
    counts = (160, 320) if not predictor.stochastic else (400, 800)
    slope = math.log2(gap(name, process, counts[0]) / gap(name, process, counts[1]))
    assert slope == pytest.approx(predictor.order, abs=0.3)


@pytest.mark.parametrize("process", ["vp", "ve"])
@pytest.mark.parametrize(
    "name", ["sa_solver", "er_sde", "er_sde[scale=reverse]", "seeds", "seeds[stages=3]", "dpmpp_3m_sde"]
)
def test_paths_converge_in_order_one(name, process):
    """Strong order: coarse runs use the noise of the finest one, sqrt(1 - K^2) Z = sum of its k's and z's."""
    predictor, sde, finest = create("predictors", name), create("sdes", process), 768
    stages, scale = getattr(predictor, "stages", 1), getattr(predictor, "scale", "reverse")
    ratios = torch.logspace(math.log10(20), math.log10(0.05), finest + 1, dtype=torch.float64)
    psi = ratios if scale == "reverse" else (ratios**0.3).exp() + 10  # the noise that stays from s to s' is psi' / psi
    keep = [float(b / a) for a, b in pairwise(psi)]

    def merged(start, end):
        """The response of Z over these finest steps to each finest z."""
        z, left = torch.zeros(finest + 2, 1, dtype=torch.float64), 1.0
        for j in reversed(range(start, end)):
            z[2 + j] = left * math.sqrt(1 - keep[j] ** 2)
            left *= keep[j]
        return z / math.sqrt(1 - left**2)

    def run(steps):
        part = finest // steps // stages
        times = torch.cat([levels(sde, ratios[:: finest // steps]), torch.zeros(1)])
        return response(
            predictor, sde, times, lambda k, n: merged((k * stages + n) * part, (k * stages + n + 1) * part), finest + 2
        )

    best = run(finest // stages)
    errors = [float((run(steps) - best)[2:].square().sum().sqrt()) for steps in (16, 32, 64)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(1, abs=0.35)
    assert errors[2] < 0.03


@pytest.mark.parametrize("process", SDES)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sa_solver[tau=0]", "unipc[variant=bh1]"),
        ("sa_solver[tau=0,max_order=2,corrector_order=3]", "unipc[variant=bh1,max_order=2]"),
        ("sa_solver[tau=0,corrector_order=0]", "unipc[variant=bh1,correct=false]"),
        ("sa_solver[tau=0,max_order=1,corrector_order=0]", "ddim"),
        ("sa_solver[max_order=1,corrector_order=0]", "ddim[eta=1]"),
        ("sa_solver[tau=3,s_min=100,s_max=1e9,max_order=1,corrector_order=0]", "ddim"),
        ("er_sde[scale=ode,max_order=1]", "ddim"),
        ("er_sde[scale=reverse,max_order=1]", "ddim[eta=1]"),
        ("seeds[stages=1,eta=0]", "ddim"),
        ("seeds[stages=1]", "ddim[eta=1]"),
        ("seeds[eta=0]", "dpm_solver_2_of_denoised_states"),
    ],
)
def test_relatives(first, second, process):
    sde, x = create("sdes", process), torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    times, z = between(sde, 8), torch.cos(9 * x)
    runs = []
    for name in (first, second):
        state, carried, model = 15 * x, (), ExactScore(Gaussian(), sde)
        for step in Schedule(sde, times).steps:
            if name == "dpm_solver_2_of_denoised_states":
                state = midpoint(state, step, model)
            else:
                state, _, carried = advance(create("predictors", name), state, step, model, z.clone, carried)
        runs.append(state)
    torch.testing.assert_close(*runs, rtol=1e-10, atol=1e-11)


def midpoint(x, step, model):
    """DPM-Solver++(2S) with r = 1/2 (arXiv:2211.01095, Algorithm 1), where D_m alone is left."""
    now, ahead = step.now, step.next
    if not ahead.sigma:
        return model.denoised(x, now)
    half = step.at_noise_ratio((ahead.sigma / ahead.alpha * now.sigma / now.alpha) ** 0.5)
    shrink = math.sqrt(ahead.sigma / ahead.alpha / (now.sigma / now.alpha))
    u = half.sigma / now.sigma * x + half.alpha * (1 - shrink) * model.denoised(x, now)
    return ahead.sigma / now.sigma * x + ahead.alpha * (1 - shrink**2) * model.denoised(u, half)


def test_with_a_full_past_and_no_noise_3m_sde_is_3m():
    sde, x = create("sdes", "vp"), torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    model, carried = ExactScore(Gaussian(), sde), ()
    ours, theirs = (create("predictors", n) for n in ("dpmpp_3m_sde[eta=0]", "dpmpp_3m[lower_order_final=false]"))
    for k, step in enumerate(Schedule(sde, between(sde, 9)).steps):
        expected, _, _ = theirs.advance(x, step, model, None, carried)
        x, _, carried = ours.advance(x, step, model, None, carried)
        assert torch.allclose(x, expected, rtol=1e-10, atol=1e-12) == (k != 1)


@pytest.mark.parametrize("name", ["er_sde", "sa_solver", "seeds", "seeds[stages=3]", "dpmpp_3m_sde"])
def test_evaluations_are_counted(name):
    """One a step, ``stages`` for SEEDS, and always one in the step to the data."""
    model = ExactScore(Gaussian(), create("sdes", "vp"))
    sampler = create("samplers", f"pc[predictor={name},steps=7]")
    stages = getattr(sampler.predictor, "stages", 1)
    assert sample(model, sampler, 3).nfe == 6 * stages + 1


@pytest.mark.parametrize(
    "spec",
    ["sa_solver[corrector_order=1]", "sa_solver[max_order=5]", "sa_solver[tau=-1]", "er_sde[max_order=4]",
     "er_sde[scale=er_4]", "seeds[stages=4]", "seeds[eta=2]", "dpmpp_3m_sde[eta=1.5]"],
)  # fmt: skip
def test_parameters_are_checked(spec):
    with pytest.raises(UsageError):
        create("predictors", spec)
