"""Distances, likelihoods, losses and adaptive steps under processes with y, one coefficient an entry, and matrices."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from scoresde import SDE, Draws, ExactScore, Schedule, ScoreModel, create, default_registry, sample
from scoresde_conformance.affine import Independent, Score
from scoresde_core.errors import UsageError
from scoresde_plugins.evaluators.moments import gaussian_w2
from scoresde_plugins.linear.diagonal import DiagonalSDE
from scoresde_run.data.evidence import Evidence

EXACT = torch.float64
POINTS = "gaussian[shape=[2],mean=[0.5,-1.0],covariance=[[0.4,0.25],[0.25,0.3]]]"
IMAGES = "gaussian[shape=[1,4,4],mean=0.3,std=0.5]"
CASES = [("per_channel", POINTS), ("blurring[size=4]", IMAGES), ("cld", POINTS), ("ir_sde", f"observed[of={POINTS}]")]


class Scaled(ExactScore):
    """The exact score times a factor, in the frame where there is one."""

    by = 1.0

    def evaluate(self, x, level):
        return super().evaluate(x, level) * (self.by if self.sde.frame is None else 1.0)

    def evaluate_framed(self, c, level, frame):
        return self.by * super().evaluate_framed(c, level, frame)


def evidence(process, target, by=1.0, sampler=None, n=64):
    target = create("targets", target).to("cpu", EXACT)
    model = Scaled(target, create("sdes", process))
    model.by = by
    x = torch.zeros(n, *target.shape, dtype=EXACT)
    return Evidence(x, target=target, model=model, sampler=create("samplers", sampler) if sampler else None)


@pytest.mark.parametrize(("process", "target"), CASES[:3])
def test_the_law_of_a_sampler_is_that_of_many_samples(process, target):
    found = evidence(process, target, sampler="pc[predictor=euler_maruyama,steps=10]")
    (metric,) = create("evaluators", "gaussian_w2").evaluate(found)
    n = 20_000
    x = sample(found.model, found.sampler, n, dtype=EXACT).x.flatten(1)
    mean, cov = found.target.moments()
    spread = float(x.T.cov().trace() ** 0.5)
    assert metric.value == pytest.approx(gaussian_w2(x.mean(0), x.T.cov(), mean, cov), abs=4 * spread / math.sqrt(n))


@pytest.mark.parametrize(("process", "target"), CASES[:3])
def test_from_the_marginal_the_flow_ends_in_the_data(process, target):
    found = evidence(process, target, sampler="ode[method=rk4,steps=100,grid=logsnr]")
    prior, marginal = (
        create("evaluators", f"gaussian_w2[start={s}]").evaluate(found)[0] for s in ("prior", "marginal")
    )
    assert marginal.value < min(6e-4, 0.3 * prior.value)


def test_a_distance_of_one_law_needs_one_score():
    found = evidence("ir_sde", f"observed[of={POINTS}]", sampler="pc[steps=5]")
    assert "take a linear process that knows no y" in create("evaluators", "gaussian_w2").skip(found)


@pytest.mark.parametrize("evaluator", ["log_likelihood", "likelihood_bound[times=100,samples=256]"])
@pytest.mark.parametrize(("process", "target"), CASES)
def test_exact_scores_have_the_likelihood_of_the_target(process, target, evaluator):
    evaluator = create("evaluators", evaluator)
    if process == "cld" and evaluator.name == "likelihood_bound_gap":
        assert "serves processes of the form scalar or diagonal" in evaluator.skip(evidence(process, target))
        return
    (right,), (wrong,) = (evaluator.evaluate(evidence(process, target, by, n=256)) for by in (1.0, 1.3))
    assert abs(right.value) < 4 * right.stderr + 1e-3
    assert evaluator.sign * wrong.value < -max(0.03, 4 * right.stderr)


def test_a_likelihood_given_y_needs_the_law_of_y():
    model = ExactScore(create("targets", "observed"), create("sdes", "ouve"))
    found = Evidence(torch.zeros(8, 2), target=create("targets", "mixture2d"), model=model)
    assert "take the target observed[of=...]" in create("evaluators", "log_likelihood").skip(found)


def test_the_density_given_y_is_that_of_the_posterior():
    target = create("targets", "observed[of=gaussian[shape=[1],mean=0.3,std=0.5],noise=0.4,scale=0.8]").to("cpu", EXACT)
    x, y = torch.tensor([[0.1], [1.0]], dtype=EXACT), torch.tensor([[0.5], [-0.7]], dtype=EXACT)
    precision = 1 / 0.25 + 0.64 / 0.16
    mean = (0.3 / 0.25 + 0.8 * y / 0.16) / precision
    exact = torch.distributions.Normal(mean, precision**-0.5).log_prob(x).sum(1)
    assert torch.allclose(target.log_posterior(x, y), exact, atol=1e-12)


WITH_Y = ("dsm[weighting=likelihood,t_min=0.03]", "importance", "edm", "flow_matching", "ssm[t_min=0.1]")
LOSSES = [
    *((loss, "ouve") for loss in WITH_Y),
    ("dsm[weighting=likelihood,t_min=0.01]", "per_channel"),
    ("importance[t_min=0.01]", "per_channel"),
]


class Given(Score):
    """The exact score of independent entries times a factor, for one time a row."""

    by = 1.0

    def evaluate(self, x, level):
        return self.by * super().evaluate(x, level)


@pytest.mark.parametrize(("loss", "process"), LOSSES)
def test_the_exact_score_is_the_minimiser(loss, process):
    """The loss rises by as much to either side."""
    sde, loss, n = create("sdes", process), create("losses", loss), 20_000
    assert sde.form in loss.serves
    if sde.needs:
        target = create("targets", "observed[of=gaussian[shape=[2],mean=[0.5,-1.0],std=[0.5,0.3]],noise=0.6]")
        target = target.to("cpu", EXACT)
        x = target.sample(n, 0).double()
        model = Scaled(target, sde.given(y=target.observe(x, 1)))
    else:
        data = Independent(2)
        x = data.mean + data.std * torch.randn(n, 2, dtype=EXACT, generator=torch.Generator().manual_seed(0))
        model = Given(data, sde)
    values = []
    for by in (0.8, 1.0, 1.2):
        model.by = by
        values.append(float(loss.per_sample(model, x, Draws(0, 0, n)).detach().mean()))
    low, least, high = values
    assert least < min(low, high)
    assert abs(high - low) < 0.5 * (0.5 * (low + high) - least)


def test_importance_sampling_changes_no_expectation_with_one_coefficient_an_entry():
    data, sde = Independent(2), create("sdes", "per_channel")
    x = data.mean + data.std * torch.randn(40_000, 2, dtype=EXACT, generator=torch.Generator().manual_seed(0))
    model = Given(data, sde)
    model.by = 1.5
    losses = ("dsm[weighting=likelihood,t_min=0.01,stratified=true]", "importance[unbiased=true,t_min=0.01]")
    a, b = (create("losses", loss).per_sample(model, x, Draws(0, 0, len(x))) for loss in losses)
    error = float((a.var() + b.var()).sqrt()) / math.sqrt(len(x))
    assert float(a.mean()) == pytest.approx(float(b.mean()), abs=4 * error)
    assert 4 * error < 0.1 * float(a.mean())


def test_adaptive_steps_serve_one_coefficient_an_entry():
    data, sampler, n = Independent(2), create("samplers", "adaptive_sde"), 400
    x = sample(Given(data, create("sdes", "per_channel")), sampler, n, dtype=EXACT).x
    assert torch.allclose(x.mean(0), data.mean, rtol=0, atol=4 * float(data.std.max()) / math.sqrt(n))
    assert torch.allclose(x.std(0) / data.std, torch.ones(2, dtype=EXACT), rtol=0, atol=0.02 + 4 / math.sqrt(2 * n))
    exact = ExactScore(create("targets", POINTS), create("sdes", "per_channel"))
    assert "take the sampler pc or ode" in sampler.skip_model(exact)


class Rising(SDE):
    """The signal comes back after t = 0.5."""

    def alpha(self, t):
        return 1 - 0.5 * torch.sin(math.pi * t)

    def sigma(self, t):
        return 0.01 + torch.sin(math.pi * t)


class ZeroInside(SDE):
    def alpha(self, t):
        return 1 - 0.9 * t

    def sigma(self, t):
        return (t - 0.5).abs() * t


class TwoShapes(DiagonalSDE):
    def alpha(self, t):
        return torch.exp(-t[..., None] * torch.arange(1, 3).to(t))

    def sigma(self, t):
        return t[..., None].expand(*t.shape, 3)


@pytest.mark.parametrize(
    ("sde", "reason"),
    [
        (Rising(), r"Rising: sigma / alpha does not rise between t = 0\.5.*: let it, with sigma > 0"),
        (ZeroInside(), "ZeroInside: sigma / alpha does not rise between t = 0.*: let it, with sigma > 0"),
        (TwoShapes(), r"TwoShapes has alpha of shape \(2,\) and sigma of shape \(3,\), which do not broadcast"),
    ],
)
def test_coefficients_of_no_process_are_refused_before_work(sde, reason):
    with pytest.raises(UsageError, match=reason):
        sample(ExactScore(create("targets", "mixture2d"), sde), create("samplers", "pc[predictor=ddim,steps=5]"), 2)


def test_bundled_processes_have_no_fault():
    for entry in default_registry().entries("sdes"):
        assert create("sdes", entry.row.name).fault() is None


class Copies(TorchDispatchMode):
    """Counts tensors that leave the CPU; the device "meta" refuses whatever would wait for it."""

    moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].device.type == "cpu":
            self.moved += torch.device((kwargs or {}).get("device") or "cpu").type == "meta"
        return func(*args, **(kwargs or {}))


class Pull(ScoreModel):
    def __init__(self, sde, shape):
        self.sde, self.shape = sde, shape

    def evaluate(self, x, level):
        return -x


@pytest.mark.parametrize(
    ("process", "shape"), [("vp", (2,)), ("per_channel", (2,)), ("blurring[size=8]", (1, 8, 8)), ("ouve", (2,))]
)
def test_a_loop_moves_nothing_to_the_device_in_its_steps(process, shape):
    """What a run moves, before and at its first step, does not grow with its steps."""
    sde, moved = create("sdes", process), []
    sde = sde.given(y=torch.zeros(3, *shape)) if sde.needs else sde
    for steps in (6, 18):
        model, sampler = Pull(sde, shape).framed(), create("samplers", f"pc[predictor=dpmpp_2m,steps={steps}]")
        schedule = Schedule(sde, sampler.grid.times(sde, steps), torch.zeros(3, *shape, device="meta"))
        x, past = torch.zeros(3, *shape, device="meta"), ()
        with Copies() as copies:
            for step in schedule.steps:
                x, _, past = sampler.predictor.advance(x, step, model, None, past)
        moved.append(copies.moved)
    assert moved[0] == moved[1] <= 2
