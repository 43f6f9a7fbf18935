"""Fast samplers on exact scores: orders and errors, common formulas, and what each method keeps.

The reference errors are those of independent implementations on a mixture of three normals in one dimension, with VP
and steps evenly spaced in log(alpha / sigma) down to t_min, without the last step to the data.
"""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import torch
from scoresde_core import ExactScore, Schedule, create, default_registry
from scoresde_core.errors import UsageError
from scoresde_core.noise import Noise
from scoresde_core.sampler import sample
from scoresde_core.sde import SDE
from scoresde_plugins.adaptive.samplers import Path as BrownianPath
from scoresde_plugins.song2021.samplers import PredictorCorrectorSampler

SDES = ["ve", "vp", "subvp", "linear_ve"]
TWO_EVALUATIONS = ("heun", "dpm_solver_2")
WITHOUT_END = ["dpm_solver_2", "heun", "dpmpp_2m", "dpmpp_3m", "deis", "ipndm"]
"""Methods that do not lower their order at the end of a long run."""
DETERMINISTIC = [*WITHOUT_END, "unipc"]
WARM_UP = {"pndm": 9}  # evaluations beside one a step
ALL = [*DETERMINISTIC, "pndm", "dpmpp_2m_sde", "heun[s_churn=4]", "dpmpp_3m[corrected=true]",
       "unipc[variant=bh1,max_order=2]", "deis[variant=rhoab,max_order=4]"]  # fmt: skip

# Mean errors at 40, 80 and 160 evaluations.
REFERENCE = {
    "ddim": (2.8e-2, 1.4e-2, 7.0e-3),
    "heun": (1.3e-2, 3.1e-3, 7.1e-4),
    "dpm_solver_2": (6.0e-3, 1.4e-3, 3.5e-4),
    "dpmpp_2m": (1.9e-3, 4.9e-4, 1.3e-4),
    "dpmpp_3m": (7.7e-4, 1.6e-4, 3.6e-5),
    "unipc[lower_order_final=false]": (2.5e-4, 1.4e-5, 1.0e-6),
    "ipndm": (1.5e-3, 3.3e-4, 7.3e-5),
    "deis[variant=rhoab,max_order=4]": (2.2e-3, 2.2e-4, 1.8e-5),
}


class Mixture:
    """0.3 N(-1, 0.1^2) + 0.3 N(0.2, 0.1^2) + 0.4 N(1, 0.1^2), the same in every coordinate."""

    weights = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    means = torch.tensor([-1.0, 0.2, 1.0], dtype=torch.float64)

    def score(self, x, level):
        variance = level.alpha**2 * 0.1**2 + level.sigma**2
        off = x.unsqueeze(-1) - level.alpha * self.means
        responsibilities = (self.weights.log() - off.square() / (2 * variance)).softmax(-1)
        return -(responsibilities * off).sum(-1) / variance


class Gaussian:
    """N(0.5, 0.5^2) in every coordinate."""

    def __init__(self, shape=(2,)):
        self.shape = shape

    def score(self, x, level):
        return (0.5 * level.alpha - x) / (0.25 * level.alpha**2 + level.sigma**2)


class Point:
    """All data at 0.7."""

    shape = (3,)

    def score(self, x, level):
        return (0.7 * level.alpha - x) / level.sigma**2


def no_noise():
    raise AssertionError("a deterministic step drew noise")


def integrate(predictor, sde, times, x, data, draw=no_noise):
    """The state after a run over ``times``, and the number of evaluations."""
    model, past = ExactScore(data), ()
    for step in Schedule(sde, times).steps:
        x, _, past = predictor.advance(x, step, model, draw, past)
    return x, model.calls


@cache
def errors(name, sde_name, grid, evaluations):
    """Mean |x - reference| / alpha at t_min, without the last step."""
    sde = create("sdes", sde_name)
    if name == "reference":
        # Order 4, with six times as many steps as the longest run.
        return integrate(
            create("predictors", "deis[max_order=4]"), sde, times(sde, "logsnr", 2000), start(sde), Mixture()
        )[0]
    predictor = create("predictors", name)
    steps = evaluations // 2 if name in TWO_EVALUATIONS else evaluations - WARM_UP.get(name, 0)
    x, counted = integrate(predictor, sde, times(sde, grid, steps), start(sde), Mixture())
    assert counted == evaluations
    alpha = float(sde.alpha(torch.tensor(sde.t_min, dtype=torch.float64)))
    return float((x - errors("reference", sde_name, "logsnr", 0)).abs().mean()) / alpha


def times(sde, grid, steps):
    """``steps`` steps from 1 to t_min."""
    return create("grids", grid).times(sde, steps + 1)[:-1]


def start(sde):
    return sde.prior.from_noise(torch.linspace(-2.5, 2.5, 201, dtype=torch.float64).unsqueeze(1))


@pytest.mark.parametrize("name", REFERENCE)
def test_errors_are_the_published_methods(name):
    """Within a factor of two of independent implementations; iPNDM on its own grid."""
    grid = "karras" if name == "ipndm" else "logsnr"
    for evaluations, expected in zip((40, 80, 160), REFERENCE[name], strict=True):
        assert 0.5 < errors(name, "vp", grid, evaluations) / expected < 2


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp"])
@pytest.mark.parametrize(
    "name",
    [*WITHOUT_END, "pndm", "dpmpp_3m[corrected=true]", "unipc[lower_order_final=false]",
     "unipc[max_order=2,lower_order_final=false]", "unipc[correct=false,lower_order_final=false]",
     "unipc[max_order=2,correct=false]", "unipc[max_order=1]", "deis[max_order=4]", "deis[variant=rhoab,max_order=4]",
     "deis[variant=rhoab]"],
)  # fmt: skip
def test_order_of_convergence_on_a_mixture(name, sde):
    slope = math.log2(errors(name, sde, "logsnr", 160) / errors(name, sde, "logsnr", 320))
    assert slope == pytest.approx(create("predictors", name).order, abs=0.3)


def test_the_errors_of_the_page_are_these():
    text = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
    table = text.split("| NFE | 20 | 40 | 80 | 160 | 320 |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 12
    for line in table:
        found = [errors(line.split("`")[1], "vp", "logsnr", n) for n in (20, 40, 80, 160, 320)]
        assert [float(text) for text in line.split("|")[2:-1]] == pytest.approx(found, rel=0.06)


def law(predictor, sde, steps):
    """Standard deviation at t_min on Gaussian data, from the response to the start and to each single draw."""
    rows, drawn = steps + 2, 0

    def draw():
        nonlocal drawn
        z = torch.zeros(rows, 1, dtype=torch.float64)
        z[2 + drawn] = 1
        drawn += 1
        return z

    x = torch.zeros(rows, 1, dtype=torch.float64)
    x[1] = 1
    x, _ = integrate(predictor, sde, times(sde, "logsnr", steps), x, Gaussian(), draw)
    response = (x[1:] - x[0]).square().squeeze(1)
    one = torch.ones((), dtype=torch.float64)
    first = 0.25 * sde.alpha(one) ** 2 + sde.sigma(one) ** 2
    return float((response[0] * first + response[1:].sum()).sqrt())


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp"])
@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_2m_sde[eta=0.3]", "heun[s_churn=10]"])
def test_stochastic_steps_converge_in_law_at_order_two(name, sde):
    predictor, sde = create("predictors", name), create("sdes", sde)
    end = torch.tensor(sde.t_min, dtype=torch.float64)
    exact = float((0.25 * sde.alpha(end) ** 2 + sde.sigma(end) ** 2).sqrt())
    gaps = [abs(law(predictor, sde, n) - exact) for n in (60, 120, 240)]
    assert math.log2(gaps[1] / gaps[2]) == pytest.approx(predictor.order, abs=0.3)
    assert gaps[2] < 1e-3


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("unipc[max_order=1,correct=false]", "ddim"),
        ("deis[max_order=1,variant=rhoab]", "ddim"),
        ("deis[max_order=1]", "ddim"),
        ("ipndm[max_order=1]", "ddim"),
        ("dpmpp_2m_sde[eta=0]", "dpmpp_2m"),
        ("unipc[max_order=2,correct=false]", "dpmpp_2m"),
        ("unipc[correct=false]", "dpmpp_3m[corrected=true]"),
    ],
)
def test_methods_that_are_the_same(first, second, sde):
    sde = create("sdes", sde)
    grid = create("grids", "karras").times(sde, 9)
    found, expected = (integrate(create("predictors", n), sde, grid, start(sde), Mixture())[0] for n in (first, second))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm"])
@pytest.mark.parametrize("sde", SDES)
def test_the_first_step_is_dpm_solver_1(name, sde):
    """x' = (alpha'/alpha) x - sigma' (e^h - 1) eps (arXiv:2206.00927, Eq. 3.7), which is DDIM."""
    sde = create("sdes", sde)
    step = Schedule(sde, times(sde, "logsnr", 10))[0]
    now, ahead, x = step.now, step.next, start(sde)
    h = math.log(ahead.alpha / ahead.sigma) - math.log(now.alpha / now.sigma)
    eps = -now.sigma * Mixture().score(x, now)
    expected = ahead.alpha / now.alpha * x - ahead.sigma * math.expm1(h) * eps
    for predictor in (create("predictors", name), create("predictors", "ddim")):
        found, _, _ = predictor.advance(x, step, ExactScore(Mixture()), no_noise, ())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_deis_with_equal_steps_is_adams_bashforth(order):
    """In s = 50 t, with equal steps in t: both polynomials are in s, and iPNDM's weights are exact."""
    sde = create("sdes", "linear_ve")
    grid = torch.linspace(1, 0.1, 30, dtype=torch.float64)
    names = (f"deis[max_order={order}]", f"deis[max_order={order},variant=rhoab]", f"ipndm[max_order={order}]")
    tab, rho, fixed = (integrate(create("predictors", n), sde, grid, start(sde), Mixture())[0] for n in names)
    torch.testing.assert_close(tab, fixed, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rho, fixed, rtol=1e-9, atol=1e-9)


def edm_levels(sde, grid):
    """s = sigma / alpha on a grid, and D(y, s) for y = x / alpha with the mixture: the paper's own notation."""
    alpha, sigma = sde.scales(grid)

    def denoise(y, s):
        variance = 0.1**2 + s * s
        off = y - Mixture.means
        r = (Mixture.weights.log() - off.square() / (2 * variance)).softmax(1)
        return (r * (Mixture.means + 0.1**2 / variance * off)).sum(1, keepdim=True)

    return (sigma / alpha).tolist(), denoise, float(alpha[0])


@pytest.mark.parametrize("sde", SDES)
def test_heun_is_algorithm_2_of_edm(sde):
    sde = create("sdes", sde)
    grid = create("grids", "karras").times(sde, 8)
    (levels, denoise, alpha), x = edm_levels(sde, grid), start(sde)
    y = x / alpha
    for s, ahead in pairwise(levels):
        slope = (y - denoise(y, s)) / s
        euler = y + (ahead - s) * slope
        y = euler if ahead == 0 else y + (ahead - s) * (slope + (euler - denoise(euler, ahead)) / ahead) / 2
    found, evaluations = integrate(create("predictors", "heun"), sde, grid, x, Mixture())
    torch.testing.assert_close(found, y, rtol=1e-8, atol=1e-9)
    assert evaluations == 15


def test_churn_raises_the_noise_as_algorithm_2_does():
    """gamma = s_churn / N where s lies in [s_min, s_max]; its std is s_noise s sqrt((1 + gamma)^2 - 1)."""
    sde = create("sdes", "ve")
    predictor = create("predictors", "heun[s_churn=2,s_min=0.05,s_max=20,s_noise=1.1]")
    grid = create("grids", "karras").times(sde, 10)
    (levels, denoise, _), z = edm_levels(sde, grid), torch.linspace(-2, 2, 201, dtype=torch.float64).unsqueeze(1)
    inside = 0
    for k, step in enumerate(Schedule(sde, grid).steps[:-1]):
        s, ahead, y = levels[k], levels[k + 1], start(sde) * levels[k] / 50
        gamma = 0.2 if 0.05 <= s <= 20 else 0.0
        inside += gamma > 0
        raised = s * (1 + gamma)
        y_raised = y + math.sqrt(raised**2 - s**2) * 1.1 * z
        slope = (y_raised - denoise(y_raised, raised)) / raised
        euler = y_raised + (ahead - raised) * slope
        expected = y_raised + (ahead - raised) * (slope + (euler - denoise(euler, ahead)) / ahead) / 2
        found, _ = predictor.step(y, step, ExactScore(Mixture()), lambda: z)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert 3 < inside < 8


def test_churn_stops_at_the_prior():
    """Beyond t = 1 no model was trained: the first step raises nothing."""
    sde = create("sdes", "vp")
    step = Schedule(sde, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))[0]
    x, z = start(sde), torch.ones(201, 1, dtype=torch.float64)
    moved, plain = (
        create("predictors", n).step(x, step, ExactScore(Mixture()), lambda: z)[0] for n in ("heun[s_churn=5]", "heun")
    )
    torch.testing.assert_close(moved, plain)


@pytest.mark.parametrize("corrected", [False, True])
def test_dpmpp_3m_is_the_published_update(corrected):
    """In half-log-SNR, with phi functions of -h, as the published code writes it; corrected, its last term twice."""
    sde = create("sdes", "subvp")
    grid = times(sde, "karras", 20)
    (levels, denoise, alpha), x = edm_levels(sde, grid), start(sde)
    y, seen = x / alpha, []
    for s, ahead in pairwise(levels):
        h = math.log(s / ahead)
        seen = [(s, denoise(y, s)), *seen][:3]
        y = ahead / s * y - math.expm1(-h) * seen[0][1]
        if len(seen) > 1:
            r0 = math.log(seen[1][0] / s) / h
            d0 = (seen[0][1] - seen[1][1]) / r0
            if len(seen) == 2:
                y = y - 0.5 * math.expm1(-h) * d0
            else:
                r1 = math.log(seen[2][0] / seen[1][0]) / h
                d1 = (seen[1][1] - seen[2][1]) / r1
                phi2 = math.expm1(-h) / h + 1
                second = (d0 - d1) / (r0 + r1)
                y = y + phi2 * (d0 + r0 * second) - (2 if corrected else 1) * (phi2 / h - 0.5) * second
    found, _ = integrate(create("predictors", f"dpmpp_3m[corrected={str(corrected).lower()}]"), sde, grid, x, Mixture())
    alpha = float(sde.alpha(grid[-1]))
    torch.testing.assert_close(found / alpha, y, rtol=1e-9, atol=1e-9)


def test_pndm_is_the_published_update():
    """With DDPM's table of products instead of alpha and sigma, and the transfer of Eq. 11."""
    sde, x = create("sdes", "vp"), start(create("sdes", "vp"))
    grid = torch.linspace(1, 0.01, 12, dtype=torch.float64)

    def product(t):
        return float(sde.alpha(torch.tensor(t, dtype=torch.float64))) ** 2

    def noise(x, t):
        return Mixture().score(x, sde.level(torch.tensor(t, dtype=torch.float64))) * -((1 - product(t)) ** 0.5)

    def transfer(x, e, t, to):
        now, ahead = product(t), product(to)
        below = now**0.5 * (((1 - ahead) * now) ** 0.5 + ((1 - now) * ahead) ** 0.5)
        return x + (ahead - now) * (x / (now**0.5 * (now**0.5 + ahead**0.5)) - e / below)

    y, seen = x, []
    for t, to in pairwise(grid.tolist()):
        seen = [noise(y, t), *seen][:4]
        if len(seen) < 4:
            middle = (t + to) / 2
            second = noise(transfer(y, seen[0], t, middle), middle)
            third = noise(transfer(y, second, t, middle), middle)
            e = (seen[0] + 2 * second + 2 * third + noise(transfer(y, third, t, to), to)) / 6
        else:
            e = (55 * seen[0] - 59 * seen[1] + 37 * seen[2] - 9 * seen[3]) / 24
        y = transfer(y, e, t, to)
    found, evaluations = integrate(create("predictors", "pndm"), sde, grid, x, Mixture())
    torch.testing.assert_close(found, y, rtol=1e-8, atol=1e-9)
    assert evaluations == 11 + 9


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("name", ALL)
def test_data_in_one_point_is_found_exactly(name, sde):
    """The denoised state is the point at every level, so any number of steps ends there."""
    for grid in ("logsnr", "uniform"):
        sampler = PredictorCorrectorSampler(create("predictors", name), grid=create("grids", grid), steps=6)
        x = sample(ExactScore(Point(), create("sdes", sde)), sampler, 8, dtype=torch.float64).x
        torch.testing.assert_close(x, torch.full_like(x, 0.7), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_evaluations_are_one_a_step_or_two(name):
    predictor = create("predictors", name)
    two = name.split("[")[0] in TWO_EVALUATIONS
    for steps in (1, 10):
        sampler = PredictorCorrectorSampler(predictor, steps=steps)
        more = two * (steps - 1) + (WARM_UP.get(name, 0) if steps > 3 else 0)
        assert sample(ExactScore(Gaussian((3,)), create("sdes", "vp")), sampler, 5).nfe == steps + more


@pytest.mark.parametrize("name", ALL)
def test_every_corrector_grid_and_sde(name):
    for sde in SDES:
        for corrector in ("langevin", "ald"):
            for grid in ("uniform", "quadratic", "logsnr", "karras"):
                sampler = create("samplers", f"pc[predictor={name},corrector={corrector},grid={grid},steps=5]")
                assert sample(ExactScore(Gaussian(), create("sdes", sde)), sampler, 3).x.isfinite().all()


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "pndm", "dpmpp_2m_sde"])
def test_the_past_survives_a_corrector(name):
    """With a Langevin step between any two steps the samples are still those of the data.

    4 standard errors, and 1 % for the bias of a Langevin step of this size.
    """
    sampler = create("samplers", f"pc[predictor={name},corrector=langevin[snr=0.05],grid=logsnr,steps=160]")
    x = sample(ExactScore(Gaussian((50,)), create("sdes", "vp")), sampler, 400, seed=2).x.double()
    stderr = 0.5 / 20_000**0.5
    assert abs(x.mean() - 0.5) < 4 * stderr + 0.005
    assert abs(x.std() - 0.5) < 4 * stderr / 2**0.5 + 0.005


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm"])
def test_the_move_of_a_corrector_is_kept(name):
    """Where D does not depend on the state, a move by delta between two steps becomes (sigma'/sigma) delta."""
    sde, predictor = create("sdes", "vp"), create("predictors", name)
    first, second = Schedule(sde, torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)).steps
    ends = []
    for delta in (0.0, 0.3):
        model, x = ExactScore(Point()), start(sde)
        x, _, past = predictor.advance(x, first, model, no_noise, ())
        ends.append(predictor.advance(x + delta, second, model, no_noise, past)[0])
    carried = 0.3 * second.next.sigma / second.now.sigma
    if name in ("deis", "ipndm"):  # these extrapolate the noise, of which the move is a part
        assert float((ends[1] - ends[0] - carried).abs().max()) > 1e-3
    else:
        torch.testing.assert_close(ends[1] - ends[0], torch.full_like(ends[0], carried), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "steps", "lowered"),
    [(name, *case) for name in ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde[eta=0]") for case in ((14, True), (15, False))]
    + [("unipc", 14, True), ("unipc", 15, True), ("unipc", 100, True), ("unipc[lower_order_final=false]", 14, False)],
)
def test_runs_end_in_lower_order(name, steps, lowered):
    """DPM-Solver++ in runs below 15 steps, UniPC in every run: the last step is Euler's, of order 1."""
    sde, x = create("sdes", "vp"), None
    schedule, model = Schedule(sde, times(sde, "logsnr", steps)), ExactScore(Mixture())
    predictor, x, past = create("predictors", name), start(sde), ()
    for step in schedule.steps[:-1]:
        x, _, past = predictor.advance(x, step, model, no_noise, past)
    if name.startswith("unipc"):
        predictor = attrs.evolve(predictor, correct=False)  # without UniC of the step before
    last, _, _ = predictor.advance(x, schedule[-1], model, no_noise, past)
    euler, _ = create("predictors", "ddim").step(x, schedule[-1], model, no_noise)
    assert torch.allclose(last, euler, rtol=1e-9, atol=1e-10) == lowered


@pytest.mark.parametrize("sde", SDES)
def test_time_at_inverts_the_noise_ratio(sde):
    """In closed form and by the bisection that any other SDE gets."""
    sde = create("sdes", sde)
    t = torch.linspace(math.log(sde.t_min), 0, 50, dtype=torch.float64).exp()
    ratio = sde.log_noise_ratio(t)
    torch.testing.assert_close(sde.time_at(ratio), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(SDE.time_at(sde, ratio), t, rtol=1e-9, atol=0)
    ends = sde.time_at(torch.tensor([-100.0, 100.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([sde.t_min, 1.0])


# --- adaptive steps ---


def adaptive(spec="", n=600, event=(2,), sde="vp", data=None, **options):
    sampler = create("samplers", f"adaptive_sde[{spec}]")
    options = {"dtype": torch.float64, "seed": 4, **options}
    return sample(ExactScore(data or Gaussian(event), create("sdes", sde)), sampler, n, **options)


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp"])
def test_adaptive_steps_find_the_data(sde):
    x = adaptive("rel_tol=0.05", sde=sde, n=1000).x.flatten()
    assert abs(x.mean() - 0.5) < 4 * 0.5 / len(x) ** 0.5
    assert abs(x.std() - 0.5) < 4 * 0.5 / (2 * len(x)) ** 0.5


def test_noise_drawn_anew_after_a_rejection_is_a_bias():
    """The published algorithm in two dimensions: far more than the 4 standard errors of the test above."""
    x = adaptive("rel_tol=0.05,redraw=true", sde="ve", n=1000).x.flatten()
    assert abs(x.std() - 0.5) > 0.15


def test_the_tolerance_controls_the_error_and_the_cost():
    loose, tight = (adaptive(f"rel_tol={tol},abs_tol={tol}", n=1500) for tol in (2.0, 0.02))
    assert tight.nfe > 5 * loose.nfe
    loose_error, tight_error = (abs(float(drawn.x.std()) - 0.5) for drawn in (loose, tight))
    assert tight_error < 4 * 0.5 / 6000**0.5
    assert loose_error > 3 * tight_error + 0.02


@pytest.mark.parametrize("redraw", ["true", "false"])
def test_adaptive_samples_do_not_depend_on_their_batch(redraw):
    whole, parts = (adaptive(f"rel_tol=0.1,redraw={redraw}", n=11, batch_size=size) for size in (None, 4))
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-9, atol=1e-9)
    assert whole.nfe == parts.nfe


def test_one_attempt_is_the_published_one():
    """Both proposals, the scaled error and every option, against numbers of one coordinate computed separately."""
    sde, data, rel, absolute = create("sdes", "vp"), Gaussian(), 0.05, 0.01
    x, before, dw = (torch.tensor([[v]], dtype=torch.float64) for v in (1.3, 2.0, 0.05))
    t, h = (torch.tensor([v], dtype=torch.float64) for v in (0.6, 0.02))

    def drift(at, time):
        beta = 0.1 + 19.9 * time
        level = sde.level(torch.tensor(time, dtype=torch.float64))
        return -0.5 * beta * at - beta * float(data.score(torch.tensor(at, dtype=torch.float64), level))

    def noise(time):
        return math.sqrt(0.1 + 19.9 * time)

    euler = 1.3 - 0.02 * drift(1.3, 0.6) + noise(0.6) * 0.05
    heun = 1.3 + 0.5 * (euler - 1.3 - 0.02 * drift(euler, 0.58) + noise(0.58) * 0.05)
    bare = 1.3 - 0.02 * drift(1.3, 0.6)
    lamba = 1.3 - 0.01 * (drift(1.3, 0.6) + drift(bare, 0.58)) + noise(0.6) * 0.05
    for options, kept, other, scale in (
        ("", heun, euler, 2.0),
        ("use_previous=false,", heun, euler, abs(euler)),
        ("extrapolate=false,use_previous=false,", euler, heun, abs(heun)),
        ("error=drift,use_previous=false,norm=max,", lamba, euler, abs(euler)),
    ):
        sampler = create("samplers", f"adaptive_sde[{options}rel_tol={rel},abs_tol={absolute}]")
        found = sampler._attempt(x, before, t, h, dw, ExactScore(data, sde))
        expected = kept, other, abs(kept - other) / max(absolute, rel * scale)
        assert [float(value) for value in found] == pytest.approx(expected, rel=1e-9)


def test_the_norm_of_the_error_is_over_coordinates():
    sde, t = create("sdes", "ve"), torch.full((1,), 0.5, dtype=torch.float64)
    x, dw = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([[0.0, 0.0, 0.0, 0.3]], dtype=torch.float64)
    rms, largest = (
        create("samplers", f"adaptive_sde[norm={norm}]")._attempt(x, x, t, 0.1 * t, dw, ExactScore(Point(), sde))[2]
        for norm in ("rms", "max")
    )
    assert 1 < float(largest / rms) <= 2


@pytest.mark.parametrize("options", ["norm=max", "extrapolate=false", "use_previous=false"])
def test_the_paper_s_ablations_find_the_data(options):
    x = adaptive(f"rel_tol=0.05,abs_tol=0.05,{options}", n=600).x.flatten()
    assert abs(x.mean() - 0.5) < 4 * 0.5 / len(x) ** 0.5 + 0.01
    assert abs(x.std() - 0.5) < 4 * 0.5 / (2 * len(x)) ** 0.5 + 0.01


def test_an_error_of_the_drift_alone_does_not_see_that_of_the_noise():
    """Its bias falls with the tolerance, and is far above that of ``error=sde`` at the same tolerance."""
    loose, tight = (
        float(adaptive(f"rel_tol={tol},abs_tol={tol},error=drift", sde="subvp", n=1000).x.std())
        for tol in (0.02, 0.002)
    )
    whole = float(adaptive("rel_tol=0.02,abs_tol=0.02", sde="subvp", n=500).x.std())
    assert loose - 0.5 > 2 * (tight - 0.5) > 0.02
    assert abs(whole - 0.5) < 0.02


def test_samples_that_have_arrived_cost_nothing():
    """NFE is the mean of the samples' own counts: fewer than the batch's calls, and odd for every single sample."""
    alone = [adaptive("rel_tol=0.1", n=1, latent=z) for z in torch.randn(6, 1, 2, generator=torch.Generator())]
    assert all(drawn.nfe % 2 == 1 for drawn in alone)  # two an attempt, and the last
    model = ExactScore(Gaussian(), create("sdes", "vp"))
    drawn = sample(model, create("samplers", "adaptive_sde[rel_tol=0.1]"), 40)
    assert drawn.nfe == model.rows / 40 < model.calls


def test_a_score_that_is_not_finite_ends_the_sample_alone():
    class Broken(Gaussian):
        def score(self, x, level):
            return torch.where(x[:, :1] > 1, torch.nan, super().score(x, level))

    x = adaptive("rel_tol=0.1", n=60, data=Broken()).x
    assert 0 < int(x.isnan().any(1).sum()) < 60


def test_a_sample_that_never_arrives_is_not_a_number():
    assert adaptive("max_attempts=3", n=4).x.isnan().all()


def test_the_path_keeps_what_rejections_reveal():
    """Attempts with large increments are rejected: a kept path stays Brownian, a redrawn one loses variance."""
    n, generator = 20_000, torch.Generator().manual_seed(3)
    path, rows = BrownianPath(torch.zeros(n, 1, dtype=torch.float64), 1e-9), torch.arange(n)
    position, at_half = torch.zeros(n, dtype=torch.float64), torch.full((n,), torch.nan, dtype=torch.float64)
    t, h = torch.zeros_like(position), torch.full_like(position, 0.5)
    while len(rows):
        z = torch.randn(len(rows), 1, generator=generator, dtype=torch.float64)
        end = torch.where(t[rows] < 0.5, 0.5, 1.0)
        step, increment = path.propose(rows, torch.minimum(h[rows], end - t[rows]), z)
        small = (increment[:, 0].abs() < 0.7 * step.sqrt()) | (step < 0.05)
        path.walk(rows[small], step[small], increment[small])
        path.reveal(rows[~small], step[~small], increment[~small])
        position[rows[small]] += increment[small, 0]
        t[rows[small]] += step[small]
        h[rows] = torch.where(small, 0.5, 0.6 * step)
        half = rows[small & ((t[rows] - 0.5).abs() < 1e-9)]
        at_half[half] = position[half]
        rows = rows[t[rows] < 1 - 1e-9]
    for value, variance in ((position, 1.0), (at_half, 0.5), (position - at_half, 0.5)):
        assert abs(value.mean()) < 4 * (variance / n) ** 0.5
        assert abs(value.var() / variance - 1) < 4 * (2 / n) ** 0.5
    assert abs(torch.corrcoef(torch.stack([at_half, position - at_half]))[0, 1]) < 4 / n**0.5


# --- the rest ---


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "heun[s_churn=4]", "unipc"])
def test_samples_do_not_depend_on_their_batch(name):
    sampler = PredictorCorrectorSampler(create("predictors", name), steps=8)
    whole, parts = (
        sample(ExactScore(Gaussian((6,)), create("sdes", "subvp")), sampler, 9, seed=1, batch_size=size).x
        for size in (9, 4)
    )
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("predictors", "dpmpp_2m_sde[eta=1.5]"),
        ("predictors", "unipc[max_order=4]"),
        ("predictors", "deis[max_order=0]"),
        ("predictors", "ipndm[max_order=5]"),
        ("predictors", "heun[s_min=2,s_max=1]"),
        ("predictors", "heun[s_churn=-1]"),
        ("samplers", "adaptive_sde[abs_tol=0]"),
        ("samplers", "adaptive_sde[first_step=2]"),
    ],
)
def test_parameters_are_checked(kind, spec):
    with pytest.raises(UsageError):
        create(kind, spec)


def test_all_of_them_are_registered():
    names = {entry.row.name for kind in ("predictors", "samplers") for entry in default_registry().entries(kind)}
    assert names >= {*DETERMINISTIC, "pndm", "dpmpp_2m_sde", "adaptive_sde"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALL)
def test_the_loop_never_waits_for_the_gpu(name):
    sampler, sde = PredictorCorrectorSampler(create("predictors", name), steps=20), create("sdes", "vp")
    noise = Noise(0, (3, 8, 8), 4, device="cuda")
    x = noise.draw("prior", "prior")
    torch.cuda.set_sync_debug_mode("error")
    try:
        sampler.run(x, ExactScore(Gaussian(), sde), noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")
