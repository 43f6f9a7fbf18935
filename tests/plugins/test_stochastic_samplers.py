"""Stochastic samplers on Gaussian data, where each is an affine map: weak and strong orders without Monte Carlo.

The response of the last state to the start and to every single draw gives mean and variance of the samples exactly, and
the difference of two responses to one Brownian path gives the strong error exactly.
"""

import math
from functools import cache
from itertools import pairwise

import attrs
import pytest
import torch
from scoresde_core import ExactScore, Level, Schedule, Step, advance, create, sample
from scoresde_core.errors import UsageError
from scoresde_plugins.coordinates import noise_ratio, raise_noise
from scoresde_plugins.evaluators.moments import Affine

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


def test_sa_solver_adds_noise_between_its_limits():
    inside = create("predictors", "sa_solver[tau=0.5,s_min=0.1,s_max=2]")
    assert [float(inside.share(Level(0.5, 1.0, s))) for s in (0.05, 0.1, 1.0, 2.0, 3.0)] == [0, 0.25, 0.25, 0.25, 0]


PHI = {"ode": lambda s: s, "reverse": lambda s: s * s, "er_2": lambda s: s**1.5,
       "er_5": lambda s: s * (math.exp(s**0.3) + 10)}  # fmt: skip


@pytest.mark.parametrize("scale", PHI)
def test_er_sde_keeps_what_its_noise_scale_leaves(scale):
    """The paper's r = phi(s') / phi(s), over s' / s."""
    kept = create("predictors", f"er_sde[scale={scale}]").keep(Level(0.5, 0.8, 1.2), Level(0.4, 0.9, 0.45))
    assert kept == pytest.approx(PHI[scale](0.5) / PHI[scale](1.5) * 3, rel=1e-12)


@pytest.mark.parametrize("rise", [1e-8, 1e-3, 2.0])
def test_noise_rises_to_the_level_and_none_is_made_of_rounding(rise):
    now, ahead = Level(0.5, 0.8, 0.6), Level(0.6, 0.7, 0.6 * 0.7 / 0.8 * (1 + rise))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    added = float(raise_noise(zero, now, ahead, one))
    assert added == pytest.approx(0.6 * 0.7 / 0.8 * math.sqrt(2 * rise + rise**2), rel=1e-6)
    assert float(raise_noise(one, now, ahead, zero)) == pytest.approx(0.7 / 0.8, rel=1e-12)
    assert float(raise_noise(zero, now, Level(0.6, 0.7, 0.6 * 0.7 / 0.8 * (1 + 1e-15)), one)) == 0


# --- restart ---


def law(text, process):
    """Mean and standard deviation of a sampler's samples in double precision, exactly, and its evaluations."""
    sampler = create("samplers", text)
    model = ExactScore(
        create("targets", f"gaussian[mean={MEAN},std={STD}]").to("cpu", torch.float64), create("sdes", process)
    )
    nfe = sample(model, sampler, 2).nfe
    found = Affine(sampler, model, model.sde.prior.from_noise, torch.empty(0, dtype=torch.float64)).law()
    return float(found.mean[0]), float(found.covariance[0, 0]) ** 0.5, nfe


def test_restart_is_algorithm_2():
    """With Heun's rule under VE, on a grid of 12 levels, against its loop written here: two intervals."""
    sde, x = create("sdes", "ve"), torch.linspace(-60, 60, 7, dtype=torch.float64).unsqueeze(1)
    text = "restart[steps=12,intervals=[[3,2,0.06,0.4],[1,1,2.0,9.0]]]"
    draws = torch.randn(40, 7, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def score(y, s):
        return (MEAN - y) / (STD**2 + s * s)

    def heun(y, s, ahead):
        slope = -s * score(y, s)
        trial = y + (ahead - s) * slope
        return y + (ahead - s) * (slope - ahead * score(trial, ahead)) / 2 if ahead else trial

    grid = [*(sde.sigma(create("grids", "karras").times(sde, 12)[:-1])).tolist(), 0.0]
    nearest = {
        min(grid[1:-1], key=lambda s, low=low: abs(s - low)): row for *row, low in ((3, 2, 0.4, 0.06), (1, 1, 9.0, 2.0))
    }
    y, count = x, 0
    for s, ahead in pairwise(grid):
        y, count = heun(y, s, ahead), count + 1
        for _ in range(nearest.get(ahead, (0, 0, 0))[1]):
            n, _, high = nearest[ahead]
            y = y + math.sqrt(high**2 - ahead**2) * draws[count]
            down = [(high ** (1 / 7) + k / n * (ahead ** (1 / 7) - high ** (1 / 7))) ** 7 for k in range(n + 1)]
            for a, b in pairwise(down):
                y, count = heun(y, a, b), count + 1

    class Draws:
        def at(self, step, purpose):
            return None

        def draw(self, step, purpose):
            return draws[step]

    model = ExactScore(Gaussian(), sde)
    found = create("samplers", text).run(x, model, Draws())
    torch.testing.assert_close(found, y, rtol=1e-8, atol=1e-9)
    assert model.calls == 2 * 12 - 1 + 2 * (2 * 3 + 1)


@pytest.mark.parametrize("process", SDES)
def test_restart_keeps_the_law_and_shrinks_an_error(process):
    """A run of few steps is off; noise and the way back, in many steps, leave less of that."""
    plain, again = (law(f"restart[steps=9,intervals=[[20,{k},0.3,3.0]]]", process) for k in (0, 4))
    assert abs(again[1] - STD) < 0.5 * abs(plain[1] - STD)
    fine = law("restart[predictor=unipc,steps=60,intervals=[[30,3,0.1,3.0]]]", process)
    assert fine[:2] == pytest.approx((MEAN, STD), abs=2e-3)


@pytest.mark.parametrize("predictor", ["heun", "dpmpp_2m", "sa_solver", "euler_maruyama"])
def test_restart_counts_every_evaluation(predictor):
    each = 2 if predictor == "heun" else 1
    *_, nfe = law(f"restart[predictor={predictor},steps=10,intervals=[[3,4,0.1,1.0]]]", "vp")
    assert nfe == each * (10 + 12) - (each - 1)


def test_a_multistep_run_begins_anew_after_the_noise():
    """With one step back each way down is a first step, DDIM's, for every multistep method."""
    text = "restart[predictor={},grid=karras,steps=2,intervals=[[1,3,0.1,1.0]]]"
    assert law(text.format("unipc[lower_order_final=false,correct=false]"), "vp") == pytest.approx(
        law(text.format("ddim"), "vp")
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [("intervals=[[0,1,0.1,1.0]]", "steps > 0"), ("intervals=[[1,1,1.0,0.1]]", "s_min < s_max"), ("steps=1", "steps")],
)
def test_restart_checks_its_intervals(spec, words):
    with pytest.raises(UsageError, match=words):
        create("samplers", f"restart[{spec}]")


@pytest.mark.parametrize("interval", ["[2,1,0.06,500.0]", "[2,1,0.001,0.005]"])
def test_restart_refuses_what_the_grid_does_not_hold(interval):
    with pytest.raises(UsageError, match="nearest to s_min"):
        law(f"restart[steps=5,intervals=[{interval}]]", "vp")
    with pytest.raises(UsageError, match="serves"):
        sample(ExactScore(Gaussian(), create("sdes", "cld")), create("samplers", "restart"), 2)


# --- the same numbers as other libraries, given the same noise ---


def steps_of(alphas, sigmas):
    """Steps between the given levels."""
    sde, count = create("sdes", "vp"), len(alphas) - 1
    levels = [Level(1 - k / count, a, s) for k, (a, s) in enumerate(zip(alphas, sigmas, strict=True))]
    return [Step(k, count, *levels[k : k + 2], diffusion=math.nan, sde=sde) for k in range(count)]


def ours(name, steps, x, draws):
    predictor, model, carried = create("predictors", name), ExactScore(Gaussian()), ()
    for step, z in zip(steps, draws, strict=True):
        x, _, carried = predictor.advance(x, step, model, z.clone, carried)
    return x


DRAWN = torch.randn(12, 9, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dpmpp_3m_sde_is_that_of_k_diffusion(eta):
    sampling = pytest.importorskip("k_diffusion.sampling")
    sigmas = torch.cat([torch.linspace(4, -3, 12, dtype=torch.float64).exp(), torch.zeros(1, dtype=torch.float64)])
    x, numbers = 50 * DRAWN[0], iter(DRAWN)

    def denoise(x, sigma):
        return x + sigma[0] ** 2 * Gaussian().score(x, Level(1.0, 1.0, sigma[0]))

    theirs = sampling.sample_dpmpp_3m_sde(
        denoise, x, sigmas, disable=True, eta=eta, noise_sampler=lambda *_: next(numbers)
    )
    found = ours(f"dpmpp_3m_sde[eta={eta}]", steps_of([1.0] * 13, sigmas.tolist()), x, DRAWN)
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("p", "c"), [(1, 2), (2, 2), (3, 3), (3, 4), (4, 4)])
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_sa_solver_is_that_of_diffusers(p, c, tau, monkeypatch):
    solver = pytest.importorskip("diffusers.schedulers.scheduling_sasolver")
    scheduler = solver.SASolverScheduler(predictor_order=p, corrector_order=c, tau_func=lambda t: torch.tensor(tau))
    scheduler.set_timesteps(12)
    scheduler.sigmas = torch.cat([scheduler.sigmas[:12].double(), torch.tensor([1e-3], dtype=torch.float64)])
    levels = [scheduler._sigma_to_alpha_sigma_t(sigma) for sigma in scheduler.sigmas]
    alphas, sigmas = ([float(level[k]) for level in levels] for k in (0, 1))
    numbers = iter(DRAWN)
    monkeypatch.setattr(solver, "randn_tensor", lambda *a, **k: next(numbers))
    x = DRAWN[3]
    found = ours(f"sa_solver[max_order={p},corrector_order={c},tau={tau}]", steps_of(alphas, sigmas), x, DRAWN)
    for k, t in enumerate(scheduler.timesteps):
        eps = -sigmas[k] * Gaussian().score(x, Level(0.5, alphas[k], sigmas[k]))
        x = scheduler.step(eps, t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


# --- churn around a multistep method ---


def churned(name, steps, up):
    """The error of :func:`gap` with noise added before each step but the first; ``up`` changes an entry of the past."""
    predictor, sde = create("predictors", name), create("sdes", "ve")
    rows, times, carried = 2 + steps, between(sde, steps), ()
    x, model = torch.eye(rows, dtype=torch.float64)[:, 1:2], ExactScore(Gaussian(), sde)
    for k, step in enumerate(Schedule(sde, times).steps[:-1]):
        if k:
            ratio = 1 + 8 / steps
            raised = step.at_noise_ratio(noise_ratio(step.now) * ratio)
            x = raise_noise(x, step.now, raised, torch.eye(rows, dtype=torch.float64)[:, 2 + k : 3 + k])
            carried = tuple(up(step, level, value, ratio) for level, value in carried)
            step = attrs.evolve(step, now=raised)
        x, _, carried = predictor.advance(x, step, model, None, carried)
    last, first, moved = sde.level(times[-2]), sde.level(times[0]), x[1:, 0] - x[0, 0]
    mean = x[0, 0] + moved[0] * MEAN * first.alpha
    variance = moved[0] ** 2 * (STD**2 + first.sigma**2) + moved[1:].square().sum()
    goal = STD**2 + last.sigma**2
    return float((mean - MEAN).abs() / goal.sqrt() + (variance / goal - 1).abs())


def kept(step, level, value, ratio):
    return level, value


def lifted(step, level, value, ratio):
    return step.at_noise_ratio(noise_ratio(level) * ratio), value


def rescaled(step, level, value, ratio):
    return lifted(step, level, value, ratio)[0], value * ratio


@pytest.mark.parametrize(
    ("name", "up", "order"),
    [("dpmpp_2m", kept, 1), ("dpmpp_2m", lifted, 2), ("deis[max_order=2,variant=rhoab]", kept, 1),
     ("deis[max_order=2,variant=rhoab]", lifted, 1), ("deis[max_order=2,variant=rhoab]", rescaled, 2)],
)  # fmt: skip
def test_added_noise_makes_a_past_wrong(name, up, order):
    """E[D(x) | x^] = D(x^): a past of D is unbiased if its levels rise with the state's; one of eps is s / s^ off."""
    first, second = churned(name, 200, up), churned(name, 400, up)
    assert math.log2(first / second) == pytest.approx(order, abs=0.1)


def test_churn_raises_the_noise_between_its_limits_as_algorithm_2_says():
    """s^ = s (1 + min(s_churn / N, sqrt(2) - 1)) for s_min <= s <= s_max; 18 steps from 80 to 0.002."""
    sde = create("sdes", "edm")
    steps = Schedule(sde, create("grids", "karras").times(sde, 18)).steps
    for churn, rate in ((40, math.sqrt(2) - 1), (1.8, 0.1)):
        heun = create("predictors", f"heun[s_churn={churn},s_min=0.05,s_max=50]")
        for step in steps:
            s = float(noise_ratio(step.now))
            _, raised = heun._raise(torch.zeros(1, 1), step, torch.zeros(1, 1))
            assert float(noise_ratio(raised)) == pytest.approx(s * (1 + rate * (0.05 <= s <= 50)), rel=1e-6)
