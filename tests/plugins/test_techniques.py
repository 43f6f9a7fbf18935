"""NCSNv2's rules against brute force, the paper's numbers and the recursion that they summarise."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scoresde_core import create
from scoresde_core.registry import load_registry
from scoresde_plugins.ncsn.techniques import (
    geometric_ratio,
    langevin_steps,
    largest_distance,
    number_of_scales,
    scale_ratio,
    shell_overlap,
    variance_ratio,
)
from scoresde_run.commands.presets import find_preset
from scoresde_run.data.batches import order
from scoresde_run.models.model import plan_loss, plan_model


@pytest.mark.parametrize("chunk", [7, 50, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e3], ids=["near", "far from the origin"])
def test_the_largest_distance_is_that_of_all_pairs(chunk, offset):
    x = torch.randn(101, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    expected = max(float((a - b).norm()) for a in x for b in x)
    assert largest_distance(x, chunk) == pytest.approx(expected, rel=1e-4 if offset else 1e-6)


def test_the_overlap_of_two_shells_is_that_of_samples():
    """Draws at scale 1 within three widths of the radius at scale gamma, where radius = sigma N(sqrt(D), 1/2)."""
    radius = math.sqrt(200) + math.sqrt(0.5) * torch.randn(400_000, generator=torch.Generator().manual_seed(1)).double()
    gamma = 1.2
    inside = (radius - gamma * math.sqrt(200)).abs() < 3 * gamma * math.sqrt(0.5)
    share = float(inside.double().mean())
    assert shell_overlap(gamma, 200) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 400_000))


@pytest.mark.parametrize("dimensions", [5, 784, 3072, 196_608])
@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.9])
def test_the_ratio_has_the_overlap_that_was_asked_for(dimensions, overlap):
    assert shell_overlap(scale_ratio(dimensions, overlap), dimensions) == pytest.approx(overlap, abs=1e-9)


@pytest.mark.parametrize(
    ("dimensions", "sigma_max", "scales"),
    [(3 * 32**2, 50, 232), (3 * 64**2, 90, 500), (3 * 128**2, 190, 1086)],
    ids=["cifar10", "celeba", "lsun"],
)
def test_the_published_scales_share_one_overlap(dimensions, sigma_max, scales):
    """The paper's three counts come from one rule; at an overlap of 0.567 it gives them back, to a scale or two."""
    gamma = geometric_ratio(0.01, sigma_max, scales)
    assert shell_overlap(gamma, dimensions) == pytest.approx(0.567, abs=1e-3)
    assert number_of_scales(dimensions, 0.01, sigma_max, 0.567) == pytest.approx(scales, abs=2)
    assert number_of_scales(dimensions, 0.01, sigma_max) < scales


@pytest.mark.parametrize("steps", [1, 3, 5, 20])
def test_the_variance_after_langevin_steps_is_that_of_the_recursion(steps):
    """On N(0, sigma^2): v -> (1 - eps/sigma^2)^2 v + 2 eps, begun at gamma^2 sigma^2."""
    sigma, gamma, eps = 0.3, 1.04, 0.004
    variance = (gamma * sigma) ** 2
    for _ in range(steps):
        variance = (1 - eps / sigma**2) ** 2 * variance + 2 * eps
    assert variance_ratio(eps / sigma**2, steps, gamma) == pytest.approx(variance / sigma**2, rel=1e-12)


@pytest.mark.parametrize("gamma", [1.01, 1.04, 1.3])
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_the_step_size_is_the_best_of_all(gamma, steps):
    found = langevin_steps(gamma, 0.01, steps)
    grid = np.exp(np.linspace(math.log(1e-9), 0, 4001))
    assert found.variance_ratio <= min(variance_ratio(float(a), steps, gamma) for a in grid) + 1e-12
    assert found.step_size == pytest.approx(2 * (found.snr * 0.01) ** 2)


def test_the_published_step_size_is_as_good():
    """NCSNv2 on CIFAR-10: 5 steps of 6.2e-6, 0.176 as the corrector's snr. The minimum is flat there."""
    gamma = geometric_ratio(0.01, 50, 232)
    found = langevin_steps(gamma, 0.01, 5)
    assert found.step_size == pytest.approx(6.2e-6, rel=0.05)
    assert found.snr == pytest.approx(0.176, rel=0.03)
    assert variance_ratio(6.2e-6 / 0.01**2, 5, gamma) - found.variance_ratio < 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: largest_distance(torch.zeros(1, 3)), "two events or more, got 1"),
        (lambda: scale_ratio(4), "5 dimensions or more, got 4"),
        (lambda: scale_ratio(100, 1.0), "between 0 and 0.99, got 1.0"),
        (lambda: number_of_scales(100, 1.0, 0.5), "below sigma_max = 0.5, got 1"),
        (lambda: geometric_ratio(0.1, 1, 1), "at least 2, got 1"),
        (lambda: langevin_steps(1.1, 0.1, 0), "at least 1, got 0"),
        (lambda: langevin_steps(1.0, 0.1, 5), "above 1, got 1.0"),
    ],
    ids=["distance", "dimensions", "overlap", "sigmas", "scales", "steps", "ratio"],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_page_prints_changes_that_train(capsys):
    """What docs/losses.md shows gives a model with these noise scales."""
    text = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    block = next(found for found in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "techniques" in found)
    exec(compile(block, "losses.md", "exec"), {})
    registry, changes = load_registry(), capsys.readouterr().out.split()
    more = ["model.shape=[1,28,28]", "model.network.variant=auto", "data.dataset=exact[target=mnist_mfa,count=10]"]
    plan = plan_model(find_preset(registry, "ve_ncsnv2_cifar10").override([*changes, *more]), registry)
    assert 10 < plan.sde.sigma_max < 28
    assert plan_loss(plan, registry).scales == plan.network.scales == plan.sampler.steps
    assert plan.sampler.steps == number_of_scales(784, 0.01, plan.sde.sigma_max)
    assert plan.sampler.corrector.n_steps == 1160 // plan.sampler.steps


def test_cifar10_as_jpegs(shared):
    events = create("datasets", f"jpeg_archive[path={shared / 'data' / 'cifar10_jpeg'}]").open("train")
    x = torch.stack([events[i] for i in order(0, 0, 50_000)[:600].tolist()]).flatten(1) / 255
    assert largest_distance(x) == pytest.approx(float(torch.pdist(x.double()).max()), rel=1e-5)
