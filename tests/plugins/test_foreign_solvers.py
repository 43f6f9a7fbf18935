"""Solvers of flow_matching, sbi and deepinv: their laws on a Gaussian, orders, counts, seeds, refusals."""

import inspect
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scoresde_core import ExactScore, Noise, create, sample, skip
from scoresde_core.document import load
from scoresde_plugins.foreign import library
from scoresde_plugins.foreign.flow_matching import _slope
from scoresde_plugins.foreign.library import denoised_at
from scoresde_run.data.evidence import Evidence

pytestmark = pytest.mark.filterwarnings("ignore")
ARENA = Path(__file__).parents[2] / "benchmarks/scoresde_bench/suites/arena.yaml"
FOREIGN = {
    "azula": "azula[sampler=DDIM]",
    "deepinv": "deepinv[solver=DDIM]",
    "diffusers": "diffusers[scheduler=DDIM]",
    "flow_matching": "flow_matching",
    "k-diffusion": "k_diffusion[function=heun]",
    "sbi": "sbi",
}


def drawn(sampler, sde, n=64, target="gaussian[std=0.5]", dtype=torch.float64, **how):
    model = ExactScore(create("targets", target).to("cpu", dtype), create("sdes", sde))
    return sample(model, create("samplers", sampler), n=n, seed=3, dtype=dtype, **how)


def latent(n=64, dtype=torch.float64):
    return Noise(3, (2,), n, dtype=dtype).draw("prior", "prior")


def distance(sampler, sde, dtype=torch.float64, target="gaussian[std=0.5]"):
    """The exact W2 of the sampler's law from a target in two dimensions."""
    target = create("targets", target).to("cpu", dtype)
    parts = {"model": ExactScore(target, create("sdes", sde)), "sampler": create("samplers", sampler)}
    (metric,) = create("evaluators", "gaussian_w2").evaluate(
        Evidence(torch.zeros(8, 2, dtype=dtype), target=target, **parts)
    )
    return metric.value


def order(errors):
    return math.log2(errors[-2] / errors[-1])


def straight(t, x):
    """The velocity of N(0, 1/4) on x_t = (1 - t) x_0 + t eps, in closed form; its flow from 1 to 0 halves x."""
    return x * (t - 0.25 * (1 - t)) / (0.25 * (1 - t) ** 2 + t**2)


EVALUATIONS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


class TestFlowMatching:
    @pytest.fixture(autouse=True)
    def library(self):
        return pytest.importorskip("flow_matching.solver")

    @pytest.mark.parametrize("method", [*EVALUATIONS, "explicit_adams", "implicit_adams"])
    def test_it_is_the_library_s_solver_in_its_direction_of_time(self, library, method):
        calls = []

        def velocity(x, t):
            calls.append(float(t))
            return -straight(1 - t.double(), x)

        expected = library.ODESolver(velocity).sample(latent(), step_size=0.1, method=method)
        found = drawn(f"flow_matching[method={method},steps=10]", "rectified_flow")
        torch.testing.assert_close(found.x, expected, rtol=0, atol=1e-7)
        assert found.nfe == len(calls)
        assert method not in EVALUATIONS or found.nfe == 10 * EVALUATIONS[method]

    @pytest.mark.parametrize("method", EVALUATIONS)
    def test_its_order_is_the_claimed_one(self, method):
        sampler = f"flow_matching[method={method},steps=%d]"
        errors = [distance(sampler % n, "rectified_flow", target="gaussian[std=3.0]") for n in (16, 32)]
        assert order(errors) > create("samplers", sampler % 9).claims - 0.1

    @pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"])
    def test_adaptive_ones_halve_the_noise(self, method):
        """Interpolation beyond the end makes errors of up to a hundred times the tolerance."""
        for tolerance, allowed in ((1e-5, 1e-3), (1e-8, 2e-5)):
            options = f"options={{rtol={tolerance},atol={tolerance}}}"
            found = drawn(f"flow_matching[method={method},{options}]", "rectified_flow").x
            torch.testing.assert_close(found, latent() / 2, rtol=0, atol=allowed)

    def test_its_steps_are_those_of_our_ode(self):
        ours = drawn("ode[method=heun3,steps=9,denoise=false]", "vp[t_min=1e-9]")
        theirs = drawn("flow_matching[method=heun3,steps=9]", "vp[t_min=1e-9]")
        torch.testing.assert_close(theirs.x, ours.x, rtol=0, atol=1e-5)  # its times are in single precision

    def test_adaptive_ones_use_no_steps(self):
        assert "steps" not in create("samplers", "flow_matching[method=dopri5]").uses
        assert "steps" in create("samplers", "flow_matching").uses
        assert create("samplers", "flow_matching[method=dopri5]").decoupled().method == "rk4"


class TestSbi:
    @pytest.fixture(autouse=True)
    def library(self):
        return pytest.importorskip("sbi.samplers.score")

    @pytest.mark.parametrize("eta", [1.0, 0.3])
    def test_euler_maruyama_has_the_law_of_a_recursion_by_hand(self, eta):
        """On its uniform times from 1 to 1e-3, x keeps N(0, v): the score is -x / (alpha^2 / 4 + sigma^2)."""
        v, times = 1.0, torch.linspace(1.0, 1e-3, 12).tolist()
        for now, then in pairwise(times):
            beta, integral, dt = 0.1 + 19.9 * now, 0.1 * now + 0.5 * 19.9 * now**2, now - then
            marginal = 1 - 0.75 * math.exp(-integral)
            slope = 1 + 0.5 * beta * dt - 0.5 * (1 + eta**2) * beta * dt / marginal
            v = slope**2 * v + eta**2 * beta * dt
        found = distance(f"sbi[options={{eta={eta}}},steps=12]", "vp")
        assert found == pytest.approx(math.sqrt(2) * abs(math.sqrt(v) - 0.5), rel=1e-4)
        assert drawn("sbi[steps=12]", "vp").nfe == 11

    def test_its_order_is_the_claimed_one(self):
        errors = [distance(f"sbi[steps={n}]", "vp") for n in (41, 81)]
        assert order(errors) > create("samplers", "sbi").claims - 0.1

    def test_its_ode_halves_the_noise(self):
        """Down to t_min, where the flow has std sqrt((1 - t)^2 / 4 + t^2)."""
        found, t = drawn("sbi[method=ode,options={rtol=1e-7,atol=1e-7}]", "rectified_flow"), 1e-3
        scale = math.sqrt(0.25 * (1 - t) ** 2 + t**2) / math.sqrt(0.25 * t**2 + (1 - t) ** 2)  # from t_max - t_min
        torch.testing.assert_close(found.x, scale * latent(), rtol=0, atol=1e-5)
        assert 30 < found.nfe < 400

    @pytest.mark.parametrize(("name", "evaluations"), [("langevin", 6), ("gibbs", 6)])
    def test_correctors_are_run_and_counted(self, name, evaluations):
        plain, found = drawn("sbi[steps=12]", "vp"), drawn(f"sbi[correction={name},steps=12]", "vp")
        assert found.nfe == 11 * evaluations
        assert not torch.allclose(found.x, plain.x, atol=1e-3)
        short = drawn(f"sbi[correction={name},correction_options={{num_steps=2}},steps=12]", "vp")
        assert short.nfe == 33
        assert create("samplers", f"sbi[correction={name}]").evaluations is None  # which the corrector's options decide


class TestDeepinv:
    @pytest.fixture(autouse=True)
    def library(self):
        return pytest.importorskip("deepinv.sampling")

    @pytest.mark.parametrize("alpha", [0.0, 1.0])
    @pytest.mark.parametrize("diffusion", ["EDMDiffusionSDE", "VariancePreservingDiffusion"])
    def test_euler_has_the_law_of_a_recursion_by_hand(self, diffusion, alpha):
        """On its uniform times from 1 to 1e-3; the library's own schedule is that of vp."""
        v, times = 1 - math.exp(-10.05), torch.linspace(1.0, 1e-3, 12).tolist()
        for now, then in pairwise(times):
            beta, integral, dt = 0.1 + 19.9 * now, 0.1 * now + 0.5 * 19.9 * now**2, now - then
            marginal = 1 - 0.75 * math.exp(-integral)
            slope = 1 + 0.5 * beta * dt - 0.5 * (1 + alpha) * beta * dt / marginal
            v = slope**2 * v + alpha * beta * dt
        sampler = f"deepinv[solver=Euler,diffusion={diffusion},diffusion_options={{alpha={alpha}}},steps=12]"
        found = distance(sampler, "vp", torch.float32)
        assert found == pytest.approx(math.sqrt(2) * abs(math.sqrt(v) - 0.5), rel=2e-3)
        assert drawn(sampler, "vp").nfe == 11

    def test_ddim_is_ours_on_its_grid(self):
        x, t, sde = latent(), torch.linspace(1.0, 1e-3, 8).double(), create("sdes", "vp")
        x = x * float(sde.sigma(t[0]))
        for now, then in pairwise(t):
            a, s, b, r = (float(value) for value in (sde.alpha(now), sde.sigma(now), sde.alpha(then), sde.sigma(then)))
            mean = x * 0.25 * a / (0.25 * a**2 + s**2)
            x = b * mean + r * (x - a * mean) / s
        for diffusion in ("EDMDiffusionSDE", "VariancePreservingDiffusion"):
            theirs = drawn(f"deepinv[solver=DDIM,diffusion={diffusion},steps=8]", "vp")
            torch.testing.assert_close(theirs.x, x, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("solver", "diffusion", "sde", "end"),
        [
            ("Euler", "VariancePreservingDiffusion", "vp", 1e-5),
            ("Heun", "VariancePreservingDiffusion", "vp", 1e-5),
            ("Ancestral", "VariancePreservingDiffusion", "vp", 1e-5),
            ("DDIM", "EDMDiffusionSDE", "vp", 1e-5),
            ("DDIM", "FlowMatching", "rectified_flow", 0.0),
            ("Heun", "VarianceExplodingDiffusion", "edm", 1e-3),
        ],
    )
    def test_its_order_is_the_claimed_one(self, solver, diffusion, sde, end):
        text = f"deepinv[solver={solver},diffusion={diffusion},end={end},steps=%d]"
        errors = [distance(text % n, sde, torch.float32) for n in (41, 81)]
        assert order(errors) > create("samplers", text % 9).claims - 0.2

    def test_song_s_form_is_integrated_by_the_library_with_a_hundred_points(self):
        """Its sigma, by the trapezoidal rule, is off, and so is the law, however many steps."""
        text = "deepinv[solver=Heun,diffusion=SongDiffusionSDE,end=1e-4,steps=%d]"
        few, many = (distance(text % n, "vp", torch.float32) for n in (60, 120))
        assert 0.005 < many < few < 0.0075
        assert (
            distance("deepinv[solver=Heun,end=1e-4,diffusion_options={alpha=0.0},steps=120]", "vp", torch.float32)
            < 3e-4
        )

    def test_the_posterior_without_data_denoises_at_the_end(self):
        plain = drawn("deepinv[solver=Euler,steps=12]", "vp")
        found = drawn("deepinv[solver=Euler,posterior=true,steps=12]", "vp")
        assert (plain.nfe, found.nfe) == (11, 12)
        assert found.x.std() < 0.9 * plain.x.std()

    def test_options_of_the_solver(self):
        ddpm, ddim = (drawn(f"deepinv[solver={name},steps=9]", "vp").x for name in ("DDPM", "DDIM,options={eta=1.0}"))
        assert torch.equal(ddpm, ddim)


def test_levels_below_t_min_have_its_score():
    """Of N(0, 1/4) at the noise ratio r: x / 4 / (1/4 + r^2), with the score -x / (1/4 + r^2) of the smallest r."""
    model = ExactScore(
        create("targets", "gaussian[std=0.5]").to("cpu", torch.float64), create("sdes", "edm[t_min=0.1]")
    )
    x, lowest = latent(), float(model.sde.sigma(torch.tensor(0.1)))
    for ratio in (0.0, 0.2 * lowest, 3 * lowest):
        expected = x - ratio**2 * x / (0.25 + max(ratio, lowest) ** 2)
        torch.testing.assert_close(denoised_at(model, x, torch.tensor(ratio)), expected, rtol=0, atol=1e-6)


class Asked(ExactScore):
    """The exact score, and the times that it was asked at."""

    def evaluate(self, x, level):
        self.times = [*getattr(self, "times", []), level.t]
        return super().evaluate(x, level)


def test_velocities_below_t_min_take_its_score_and_go_on_smoothly():
    """On x_t = (1 - t) x_0 + t eps: f = -1 / (1 - t) and g^2 / 2 = t / (1 - t), beyond 0 by values on this side."""
    sde = create("sdes", "rectified_flow[t_min=0.01]")
    model, x = Asked(create("targets", "gaussian[std=0.5]").to("cpu", torch.float64), sde), latent()
    score = -x / (0.25 * 0.99**2 + 0.01**2)
    for t in (0.004, 0.0):
        expected = -x / (1 - t) - t / (1 - t) * score
        torch.testing.assert_close(_slope(model, t, x), expected, rtol=0, atol=1e-12)
    beyond = -(2 - 1 / 0.9) * x + 0.1 / 0.9 * score
    torch.testing.assert_close(_slope(model, -0.1, x), beyond, rtol=0, atol=1e-12)
    assert model.times == [0.01] * 3
    torch.testing.assert_close(_slope(model, 0.3, x), straight(0.3, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [
        "sbi[correction=gibbs,steps=8]",
        "deepinv[solver=DDPM,steps=8]",
        "flow_matching[method=rk4]",
    ],
)
def test_samples_have_their_seed_and_not_their_batch(sampler):
    if reason := create("samplers", sampler).skip(create("sdes", "vp")):
        pytest.skip(reason)
    whole = drawn(sampler, "vp", 12).x
    assert torch.equal(whole, drawn(sampler, "vp", 12).x)
    torch.testing.assert_close(drawn(sampler, "vp", 12, batch_size=5).x, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "sde", "words"),
    [
        ("flow_matching[method=foo]", "vp", 'Invalid method "foo"'),
        ("flow_matching[method=rk4,options={foo=1}]", "vp", "unexpected keyword argument 'foo'"),
        ("sbi[method=foo]", "vp", "KeyError: 'foo'"),
        ("sbi[correction=foo]", "vp", "KeyError: 'foo'"),
        ("sbi[options={foo=1}]", "vp", "unexpected keyword argument 'foo'"),
        ("sbi[options={eta=0}]", "vp", "eta must be positive"),
        ("sbi[method=ode,correction=gibbs]", "vp", "it has no correctors: leave correction out"),
        ("deepinv[solver=Foo]", "vp", "has no attribute 'FooSolver'"),
        ("deepinv[solver=Heun,diffusion=Foo]", "vp", "has no attribute 'Foo'"),
        ("deepinv[solver=Heun,options={foo=1}]", "vp", "unexpected keyword argument 'foo'"),
        ("deepinv[solver=Heun,diffusion_options={foo=1}]", "vp", "EDMDiffusionSDE has no argument 'foo'"),
        ("deepinv[solver=Heun]", "rectified_flow", "it divides by alpha, which is 0 at the end: take vp, or diffusion"),
    ],
)
def test_what_they_cannot_do_is_one_line(sampler, sde, words):
    made = create("samplers", sampler)
    if made.version == "none":
        pytest.skip(f"{made.library} is not installed")
    reason = skip(made, create("sdes", sde), (2,))
    assert words in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", FOREIGN)
def test_an_absent_library_is_a_skip_with_its_command(monkeypatch, name):
    monkeypatch.setattr(library, "installed", lambda distribution: "none")
    reason = skip(create("samplers", FOREIGN[name]), create("sdes", "vp"), (2,))
    assert reason == f"{name} is not installed: pip install 'scoresde[{name}]'"


def _arena():
    return " ".join(str(block["sampler"]) for block in load(ARENA.read_text("utf-8"))["blocks"])


def test_the_arena_has_every_solver_of_deepinv():
    sampling = pytest.importorskip("deepinv.sampling")
    kinds = [
        name.removesuffix("Solver")
        for name, kind in inspect.getmembers(sampling, inspect.isclass)
        if name.endswith("Solver")
    ]
    assert {name for name in kinds if name not in _arena()} == {"BaseSDE"}


def test_the_arena_has_every_method_of_torchdiffeq_but_one():
    from torchdiffeq._impl.odeint import SOLVERS

    assert {name for name in SOLVERS if name not in _arena()} == {"fixed_adams", "scipy_solver"}


def test_the_arena_has_every_predictor_and_corrector_of_sbi():
    pytest.importorskip("sbi.samplers.score")
    from sbi.samplers.score.correctors import CORRECTORS
    from sbi.samplers.score.predictors import PREDICTORS

    assert all(name in _arena() for name in (*CORRECTORS, *PREDICTORS))
