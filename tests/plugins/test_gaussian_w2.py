"""The exact distance of a sampler's law: against recursions by hand and samples, and what it refuses."""

import math
from itertools import pairwise

import pytest
import torch
from scoresde_core import ExactScore, Spec, create, default_registry, sample
from scoresde_plugins.evaluators.moments import Affine, gaussian_w2
from scoresde_run.data.evidence import Evidence

TARGET = "gaussian[shape=[2],mean=[0.5,-1],covariance=[[0.4,0.25],[0.25,0.3]]]"


def evidence(sampler, target=TARGET, sde="vp", dtype=torch.float64):
    target = create("targets", target).to("cpu", dtype)
    parts = {"model": ExactScore(target, create("sdes", sde)), "sampler": create("samplers", sampler)}
    return Evidence(torch.zeros(8, *target.shape, dtype=dtype), target=target, **parts)


def by_hand(std, mean, steps):
    """Mean and std after Euler-Maruyama under VP, from the prior: one coordinate, in Python's own arithmetic."""
    t = [1 + k / (steps - 1) * (1e-3 - 1) for k in range(steps)] + [0.0]
    m, v = 0.0, 1.0
    for now, after in pairwise(t):
        integral, beta, dt = 0.1 * now + 0.5 * 19.9 * now**2, 0.1 + 19.9 * now, now - after
        alpha, variance = math.exp(-integral / 2), math.exp(-integral) * std**2 + 1 - math.exp(-integral)
        # mean = x + [beta x / 2 + beta score] dt, score = -(x - alpha mean) / variance
        slope = 1 + 0.5 * beta * dt - beta * dt / variance
        m, v = slope * m + beta * dt * alpha * mean / variance, slope**2 * v + (beta * dt if after else 0.0)
    return m, math.sqrt(v)


@pytest.mark.parametrize("steps", [5, 40])
def test_it_is_the_distance_that_a_recursion_by_hand_gives(steps):
    found = evidence(f"pc[predictor=euler_maruyama,steps={steps}]", "gaussian[shape=[2],mean=[0.5,-1.0],std=[0.2,1.5]]")
    (metric,) = create("evaluators", "gaussian_w2").evaluate(found)
    ends = [by_hand(std, mean, steps) for std, mean in ((0.2, 0.5), (1.5, -1.0))]
    squared = sum(
        (m - mean) ** 2 + (s - std) ** 2 for (m, s), (std, mean) in zip(ends, ((0.2, 0.5), (1.5, -1.0)), strict=True)
    )
    assert metric.value == pytest.approx(math.sqrt(squared), rel=1e-9)
    assert (metric.stderr, metric.unit, metric.better) == (0.0, "data units", "lower")


def test_the_law_is_that_of_many_samples():
    """With a multistep predictor, noise in every step, a corrector of fixed size and a mean of the prior."""
    sampler, sde = (
        create("samplers", "pc[predictor=dpmpp_2m_sde,steps=6,denoise=false]"),
        create("sdes", "ve[prior_mean=2.0]"),
    )
    target = create("targets", TARGET).to("cpu", torch.float64)
    like = torch.zeros(0, dtype=torch.float64)
    found = Affine(sampler, ExactScore(target, sde), sde.prior.from_noise, like).law()
    n = 40_000
    x = sample(ExactScore(target, sde), sampler, n, dtype=torch.float64).x
    off = gaussian_w2(x.mean(0), x.T.cov(), found.mean, found.covariance)
    scale = float(found.covariance.trace()) ** 0.5
    assert off < 4 * scale / math.sqrt(n)
    assert scale > 0.5


def test_the_prior_is_a_part_of_the_error_that_a_start_from_the_marginal_lacks():
    """A Gaussian far from the prior's mean: VP keeps e^-10.05/2 of it at t = 1, and the ODE takes it to the data."""
    found = evidence(
        "pc[predictor=unipc,grid=logsnr,steps=400]", "gaussian[shape=[2],mean=[100.0,0.0]]", "vp[t_min=1e-6]"
    )
    (whole,) = create("evaluators", "gaussian_w2").evaluate(found)
    (steps,) = create("evaluators", "gaussian_w2[start=marginal]").evaluate(found)
    assert whole.value == pytest.approx(100 * math.exp(-10.05 / 2), rel=1e-3)
    assert steps.value < 1e-3 * whole.value


def test_single_precision_is_a_part_of_the_sampler():
    exact, rounded = (
        create("evaluators", "gaussian_w2").evaluate(evidence("pc[predictor=ddim,steps=10]", dtype=dtype))[0].value
        for dtype in (torch.float64, torch.float32)
    )
    assert 0 < abs(exact - rounded) < 1e-5 * exact


@pytest.mark.parametrize(
    ("sampler", "target", "reason"),
    [
        ("pc[corrector=langevin[snr=0.01],steps=20]", TARGET, "not affine"),
        ("ode", TARGET, "an adaptive one is not affine"),
        ("adaptive_sde", TARGET, "an adaptive one is not affine"),
        ("pc[predictor=ddim,steps=20]", "mixture2d", "needs a Gaussian target"),
        ("pc[predictor=euler_maruyama,steps=50]", "gaussian[shape=[1,32,32]]", "dimensions are too many"),
    ],
)
def test_what_it_refuses(sampler, target, reason):
    evaluator, found = create("evaluators", "gaussian_w2"), evidence(sampler, target)
    assert reason in evaluator.skip(found)
    with pytest.raises(ValueError, match=reason):
        evaluator.evaluate(found)


def test_a_network_and_a_missing_sampler_are_refused():
    class Bent(ExactScore):
        def evaluate(self, x, level):
            return super().evaluate(x, level).tanh()

    found = evidence("pc[predictor=ddim,steps=20]")
    found.model = Bent(found.target, found.sde)
    assert "its score is not linear" in create("evaluators", "gaussian_w2").skip(found)
    bare = Evidence(found.samples, target=found.target, model=found.model)
    assert create("evaluators", "gaussian_w2").skip(bare) == "GaussianW2 needs sampler"


@pytest.mark.parametrize("entry", default_registry().entries("samplers"), ids=lambda entry: entry.qualified)
def test_every_sampler_is_judged_or_refused_with_a_reason(entry, tmp_path):
    example = getattr(default_registry().load("samplers", entry.qualified), "example", {})
    params, few = (example(tmp_path), 6) if callable(example) else (example, 8)  # a file is of numbers of steps
    if reason := create("samplers", Spec(entry.qualified, params)).skip(create("sdes", "vp")):
        pytest.skip(reason)
    found = evidence(str(Spec(entry.qualified, params)), sde="vp")
    if "steps" in found.sampler.uses:
        found = evidence(str(Spec(entry.qualified, {**params, "steps": few})))
    evaluator = create("evaluators", "gaussian_w2")
    reason = evaluator.skip(found)
    assert reason or math.isfinite(evaluator.evaluate(found)[0].value)


@pytest.mark.parametrize(("method", "order", "steps"), [("euler", 1, 80), ("midpoint", 2, 80), ("rk4", 4, 20)])
def test_it_follows_the_probability_flow(method, order, steps):
    """A fixed-step ODE solver, whose order shows (above what the end at t_min adds, 2e-7)."""
    few, more = (
        create("evaluators", "gaussian_w2[start=marginal]")
        .evaluate(evidence(f"ode[method={method},grid=logsnr,steps={n}]", sde="vp[t_min=1e-6]"))[0]
        .value
        for n in (steps, 2 * steps)
    )
    assert math.log2(few / more) == pytest.approx(order, abs=0.3)
