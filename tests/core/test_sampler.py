"""The loops: what they evaluate, in what order, and closed-form solutions on Gaussian data."""

import math

import attrs
import pytest
import torch
from scoresde_core.errors import UsageError
from scoresde_core.registry import create, default_registry
from scoresde_core.sampler import sample, skip
from scoresde_core.schedule import Schedule
from scoresde_core.score import ExactScore, ScoreModel
from scoresde_core.steps import rows_of_past
from scoresde_plugins.ddpm.predictors import AncestralSamplingPredictor, DDIMPredictor
from scoresde_plugins.grids import LogSNRGrid, QuadraticGrid, UniformGrid
from scoresde_plugins.ncsn.correctors import AnnealedLangevinCorrector
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.correctors import LangevinCorrector, NoneCorrector
from scoresde_plugins.song2021.predictors import (
    EulerMaruyamaPredictor,
    NonePredictor,
    ProbabilityFlowPredictor,
    ReverseDiffusionPredictor,
)
from scoresde_plugins.song2021.samplers import ODESampler, PredictorCorrectorSampler
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_run.sampling.samples import diverged

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
MEAN, STD = 0.5, 0.2


class Gaussian:
    """N(0.5, 0.2^2 I), as in the reference notes."""

    def __init__(self, shape=(3,)):
        self.shape = shape

    def score(self, x, level):
        return -(x - MEAN * level.alpha) / (STD**2 * level.alpha**2 + level.sigma**2)

    def marginal_std(self, alpha, sigma):
        return math.sqrt(STD**2 * alpha**2 + sigma**2)


class Recorder(ScoreModel):
    """The score of the Gaussian; records the time of every evaluation."""

    def __init__(self, sde):
        self.times, self.sde, self.shape = [], sde, (3,)

    def evaluate(self, x, level):
        self.times.append(float(level.t))
        return Gaussian().score(x, level)


def scales(sde, t):
    return tuple(float(f(torch.tensor(t, dtype=torch.float64))) for f in (sde.alpha, sde.sigma))


@pytest.fixture(params=list(SDES))
def sde(request):
    return SDES[request.param]


@pytest.fixture
def latent(sde):
    z = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return sde.prior.from_noise(z)


def no_noise():
    raise AssertionError("a deterministic step drew noise")


def flow_solution(sde, latent, t):
    """The probability flow of a Gaussian scales the deviation from the mean by the ratio of standard deviations."""
    (a1, s1), (a, s) = scales(sde, 1.0), scales(sde, t)
    ratio = Gaussian().marginal_std(a, s) / Gaussian().marginal_std(a1, s1)
    return MEAN * a + (latent - MEAN * a1) * ratio


def solve(sampler, sde, latent):
    model = ExactScore(Gaussian(), sde)
    return sample(model, sampler, 16, latent=latent, dtype=torch.float64).x


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
def test_adaptive_ode_is_the_closed_form_flow(sde, latent, method):
    x = solve(ODESampler(method=method, rtol=1e-8, atol=1e-8, denoise=False), sde, latent)
    torch.testing.assert_close(x, flow_solution(sde, latent, sde.t_min), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("rk4", 4)])
def test_fixed_step_ode_converges_at_its_order(method, order):
    sde = VPSDE(t_min=0.2)
    latent = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = flow_solution(sde, latent, 0.2)
    errors = [
        float((solve(ODESampler(method=method, steps=n, denoise=False), sde, latent) - truth).norm()) for n in (32, 64)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_ode_denoises_by_tweedie(sde, latent):
    raw, denoised = (solve(ODESampler(rtol=1e-7, atol=1e-7, denoise=d), sde, latent) for d in (False, True))
    a, s = scales(sde, sde.t_min)
    gain = STD**2 * a / (STD**2 * a**2 + s**2)
    torch.testing.assert_close(denoised, MEAN + gain * (raw - MEAN * a), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "predictor",
    [EulerMaruyamaPredictor(), ReverseDiffusionPredictor(), AncestralSamplingPredictor(), DDIMPredictor(eta=1.0)],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_a_thousand_steps_recover_the_data(name, predictor):
    """Mean 0.5, standard deviation 0.2 with exact scores: within 0.01, and 4 standard errors."""
    sampler = PredictorCorrectorSampler(predictor, steps=1000)
    x = sample(ExactScore(Gaussian((4,)), SDES[name]), sampler, 4000, seed=3).x.double()
    n = x.numel()
    assert abs(x.mean() - MEAN) < 4 * STD / n**0.5 + 0.002
    assert abs(x.std() - STD) < 4 * STD / (2 * n) ** 0.5 + 0.01


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_gaussian_for_any_eta(eta):
    sampler = PredictorCorrectorSampler(DDIMPredictor(eta=eta), grid=LogSNRGrid(), steps=300)
    x = sample(ExactScore(Gaussian((4,)), VPSDE()), sampler, 4000, seed=3).x.double()
    assert abs(x.std() - STD) < 4 * STD / (2 * x.numel()) ** 0.5 + 0.005


def test_ddim_is_exact_for_a_point(sde):
    """For data at one point the denoised state is that point, for any number of steps."""

    class Point:
        shape = (3,)

        def score(self, x, level):
            return -(x - 0.7 * level.alpha) / level.sigma**2

    sampler = PredictorCorrectorSampler(DDIMPredictor(), steps=3)
    x = sample(ExactScore(Point(), sde), sampler, 8, dtype=torch.float64).x
    torch.testing.assert_close(x, torch.full_like(x, 0.7), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("predictor", "corrector", "order", "nfe"),
    [
        (ReverseDiffusionPredictor(), NoneCorrector(), "corrector_first", 10),
        (ReverseDiffusionPredictor(), LangevinCorrector(n_steps=2), "corrector_first", 30),
        (ReverseDiffusionPredictor(), LangevinCorrector(n_steps=2), "predictor_first", 28),
        (NonePredictor(), AnnealedLangevinCorrector(n_steps=5), "corrector_first", 50),
    ],
    ids=["p", "cp", "pc", "c"],
)
def test_function_evaluations_are_counted(predictor, corrector, order, nfe):
    model = Recorder(VPSDE())
    sampler = PredictorCorrectorSampler(predictor, corrector, steps=10, order=order)
    drawn = sample(model, sampler, 7, batch_size=3)
    assert drawn.nfe == nfe
    assert len(model.times) == 3 * nfe  # three batches


@pytest.mark.parametrize(
    ("order", "expected"), [("corrector_first", [1.0, 1.0, 0.5, 0.5]), ("predictor_first", [1.0, 0.5, 0.5])]
)
def test_order_of_predictor_and_corrector(order, expected):
    """The published code runs the corrector first, Algorithm 1 of the paper the predictor."""
    model = Recorder(VPSDE(t_min=0.5))
    sampler = PredictorCorrectorSampler(ReverseDiffusionPredictor(), LangevinCorrector(), steps=2, order=order)
    sample(model, sampler, 4)
    assert model.times == pytest.approx(expected)


def test_the_last_mean_is_returned_by_default():
    noisy, clean = (
        sample(
            ExactScore(Gaussian(), VESDE()),
            PredictorCorrectorSampler(ReverseDiffusionPredictor(), steps=20, denoise=denoise),
            500,
            dtype=torch.float64,
        ).x
        for denoise in (False, True)
    )
    # The last step of SMLD adds noise of sigma_min.
    assert float((noisy - clean).std()) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (3, 32, 48)], ids=str)
@pytest.mark.parametrize("norm", ["level", "batch"])
def test_any_event_shape(shape, norm):
    sampler = PredictorCorrectorSampler(corrector=LangevinCorrector(norm=norm), grid=QuadraticGrid(), steps=3)
    assert sample(ExactScore(Gaussian(shape), SubVPSDE()), sampler, 4).x.shape == (4, *shape)


def test_batch_mean_norms_couple_the_batch_and_levels_do_not():
    def run(norm, batch):
        sampler = PredictorCorrectorSampler(corrector=LangevinCorrector(norm=norm), steps=5)
        return sample(ExactScore(Gaussian((6,)), VPSDE()), sampler, 9, seed=1, batch_size=batch).x

    assert torch.equal(run("level", 9), run("level", 4))
    assert not torch.allclose(run("batch", 9), run("batch", 4), rtol=1e-3)


def test_a_vanishing_score_leaves_langevin_finite():
    """A zero-initialised network gives infinities in the published code."""

    class Zero(ScoreModel):
        sde, shape = VPSDE(), (3,)

        def evaluate(self, x, level):
            return torch.zeros_like(x)

    sampler = PredictorCorrectorSampler(corrector=LangevinCorrector(), steps=20)
    assert sample(Zero(), sampler, 4).x.isfinite().all()


def test_ode_decodes_a_given_latent_and_needs_no_noise(sde, latent):
    first, second = (
        sample(ExactScore(Gaussian(), sde), ODESampler(), 16, seed=s, latent=latent, dtype=torch.float64).x
        for s in (0, 1)
    )
    assert torch.equal(first, second)


def test_probability_flow_option_of_reverse_diffusion_is_the_flow_component():
    flows = [ReverseDiffusionPredictor(probability_flow=True), ProbabilityFlowPredictor()]
    first, second = (
        sample(ExactScore(Gaussian(), VPSDE()), PredictorCorrectorSampler(p, steps=50), 8).x for p in flows
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "predictor",
    [EulerMaruyamaPredictor(probability_flow=True), ProbabilityFlowPredictor(), DDIMPredictor()],
    ids=lambda p: type(p).__name__,
)
def test_deterministic_predictors_converge_to_the_closed_form_flow(predictor):
    sde, errors = VPSDE(), []
    latent = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for n in (200, 400):
        x = latent
        for step in Schedule(sde, torch.linspace(1, 0.2, n + 1)).steps:
            x, _ = predictor.step(x, step, ExactScore(Gaussian()), no_noise)
        errors.append(float((x - flow_solution(sde, latent, 0.2)).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("n", "batch"), [(0, None), (-3, None), (4, 0)])
def test_sizes_are_checked(n, batch):
    with pytest.raises(UsageError, match="at least 1"):
        sample(ExactScore(Gaussian(), VPSDE()), ODESampler(), n, batch_size=batch)


def test_one_sample_far_from_all_true_events_is_a_divergence():
    x = torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0))
    assert diverged(x, 1.0) is None
    x[17] = 1001.0
    assert "the root mean square of its samples is 10.1, that of the largest 1e+03, that of true events 1" in diverged(
        x, 1.0
    )
    assert diverged(x) is None
    x[17] = 999.0
    assert diverged(x, 1.0) is None
    assert "the root mean square of its samples is 101" in diverged(torch.full((2, 3), 101.0), 1.0)


def test_impossible_combinations_give_the_reason():
    idle = PredictorCorrectorSampler(NonePredictor(), NoneCorrector())
    assert "move nothing" in skip(idle, VPSDE(), (3,))
    assert "2 channel means" in skip(ODESampler(), VESDE(prior_mean=(0.0, 0.0)), (3, 8, 8))
    assert skip(ODESampler(), VESDE(prior_mean=(0.0, 0.0, 0.0)), (3, 8, 8)) is None


class TestPast:
    """The past of a run is what its steps return, so one schedule serves many runs, consecutive or interleaved."""

    MULTISTEP = ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc", "deis", "ipndm", "pndm", "sa_solver", "er_sde")
    GIVEN = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)

    def run(self, name, steps, x=GIVEN):
        past = ()
        for step in steps:
            x, _, past = create("predictors", name).advance(x, step, ExactScore(Gaussian()), self.GIVEN.clone, past)
        return x

    @pytest.fixture
    def schedule(self):
        return Schedule(VPSDE(), LogSNRGrid().times(VPSDE(), 8))

    @pytest.mark.parametrize("name", MULTISTEP)
    def test_consecutive_runs_and_runs_from_the_middle(self, name, schedule):
        fresh = Schedule(VPSDE(), LogSNRGrid().times(VPSDE(), 8))
        expected, middle = self.run(name, fresh.steps), self.run(name, fresh.steps[4:])
        for before in (8, 5, 2, 1):  # complete and interrupted
            self.run(name, schedule.steps[:before], 3 * self.GIVEN)
            assert torch.equal(self.run(name, schedule.steps), expected)
            assert torch.equal(self.run(name, schedule.steps[4:]), middle)

    @pytest.mark.parametrize("name", MULTISTEP)
    def test_interleaved_runs(self, name, schedule):
        predictor, runs = create("predictors", name), [(self.GIVEN, ()), (3 * self.GIVEN, ())]
        for step in schedule.steps:
            for k, (x, past) in enumerate(runs):
                x, _, past = predictor.advance(x, step, ExactScore(Gaussian()), self.GIVEN.clone, past)
                runs[k] = x, past
        assert torch.equal(runs[0][0], self.run(name, schedule.steps))
        assert torch.equal(runs[1][0], self.run(name, schedule.steps, 3 * self.GIVEN))

    @pytest.mark.parametrize("name", MULTISTEP)
    def test_a_step_alone_has_no_past(self, name, schedule):
        """It would be a first step, which differs from a later one with its past, and is refused."""
        predictor, model = create("predictors", name), ExactScore(Gaussian())
        with pytest.raises(TypeError, match="uses previous steps: call advance and pass on the past"):
            predictor.step(self.GIVEN, schedule[3], model, self.GIVEN.clone)
        first, _, _ = predictor.advance(self.GIVEN, schedule[3], model, self.GIVEN.clone, ())
        x, past = self.GIVEN, ()
        for step in schedule.steps[:3]:
            x, _, past = predictor.advance(x, step, model, self.GIVEN.clone, past)
        later, _, _ = predictor.advance(self.GIVEN, schedule[3], model, self.GIVEN.clone, past)
        assert not torch.allclose(first, later, rtol=1e-6)

    def test_rows_of_a_past(self):
        """Nested tuples, lists, and numbers, which have no rows."""
        x, rows = torch.arange(6.0).reshape(3, 2), torch.tensor([2, 0, 0])
        found = rows_of_past(((x, 0.5), [x, None]), rows)
        assert found[0][1] == 0.5
        assert found[1][1] is None
        assert all(torch.equal(part, x[rows]) for part in (found[0][0], found[1][0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_loop_never_waits_for_the_gpu():
    sampler = PredictorCorrectorSampler(corrector=LangevinCorrector(), steps=5)
    model = ExactScore(Gaussian((3, 8, 8)), VPSDE())
    sample(model, sampler, 4, device="cuda")
    from scoresde_core.noise import Noise

    noise = Noise(0, (3, 8, 8), 4, device="cuda")
    x = noise.draw("prior", "prior")
    torch.cuda.set_sync_debug_mode("error")
    try:
        sampler.run(x, model, noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestTheGridOfAPredictor:
    """``pc`` uses the grid of the predictor unless given another."""

    NAMED = dict.fromkeys(("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc", "dpm_solver_2"), "logsnr")
    NAMED |= dict.fromkeys(("dpmpp_3m_sde", "sa_solver", "er_sde", "seeds"), "logsnr")
    NAMED |= dict.fromkeys(("deis", "ipndm", "heun"), "karras")

    def test_every_bundled_predictor_names_one(self):
        names = [e.row.name for e in default_registry().entries("predictors") if e.owner == "scoresde"]
        assert len(names) == 19
        for name in names:
            expected = create("grids", self.NAMED.get(name, "uniform"))
            assert create("predictors", name).grid == expected
            assert create("samplers", f"pc[predictor={name}]").grid == expected

    def test_a_given_grid_replaces_it(self):
        assert create("samplers", "pc[predictor=dpmpp_2m,grid=uniform]").grid == UniformGrid()
        assert PredictorCorrectorSampler(DDIMPredictor(), grid=LogSNRGrid()).grid == LogSNRGrid()

    def test_a_predictor_of_another_package_without_one(self):
        class Still(NonePredictor):
            grid = None

        assert PredictorCorrectorSampler(Still()).grid == UniformGrid()

    def test_a_conditioned_predictor_keeps_it(self):
        sampler = create("samplers", "pc[predictor=dpmpp_2m]")
        assert attrs.evolve(sampler, predictor=NonePredictor(), steps=3).grid == LogSNRGrid()

    def test_a_name_in_place_of_a_grid_is_refused(self):
        class Named(NonePredictor):
            grid = "karras"

        with pytest.raises(TypeError, match="'grid' must be"):
            PredictorCorrectorSampler(Named())

    @pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc"])
    def test_logsnr_is_better_than_uniform(self, name):
        """Ten steps under VP on a mixture in the plane: nats of the samples above the entropy of the target."""
        target = create("targets", "mixture2d")

        def gap(grid):
            sampler = create("samplers", f"pc[predictor={name},steps=10{grid}]")
            x = sample(ExactScore(target, VPSDE()), sampler, 2048, seed=2).x
            return abs(-float(target.log_prob(x).mean()) - target.entropy().value)

        assert gap("") < 1.2
        assert gap(",grid=uniform") > 2.5
