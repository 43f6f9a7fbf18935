"""NCSNv2's rules against brute force, the paper's numbers and the recursion that they summarise."""

import json
import math
import shlex

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
from scoresde_run.commands.shell import main
from scoresde_run.data.batches import order
from scoresde_run.models.model import plan_data, plan_loss, plan_model


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


@pytest.fixture
def images(tmp_path):
    """90 training images (and 10 held out), of which one is white and one black."""
    array = np.random.default_rng(0).integers(100, 150, (100, 6, 6), dtype=np.uint8)
    array[3], array[14] = 0, 255
    np.savez(tmp_path / "a.npz", images=array)
    return tmp_path / "a.npz"


@pytest.mark.parametrize(("options", "side"), [([], 1.0), (["--centered"], 2.0)], ids=["unit", "centered"])
def test_the_command_finds_black_and_white(images, capsys, options, side):
    assert main(["tune-noise", f"npz[path={images}]", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sigma_max"] == pytest.approx(side * 6, rel=1e-5)
    assert (found["images"], found["of"], found["dimensions"], found["ema"]) == (90, 90, 36, 0.999)
    assert found["scales"] == number_of_scales(36, 0.01, found["sigma_max"])
    assert found["steps_per_scale"] == 1160 // found["scales"]


def test_the_subset_is_stated_and_follows_the_seed(images, capsys):
    found = []
    for seed in (0, 0, 1):
        assert main(["tune-noise", f"npz[path={images}]", "--images", "20", "--seed", str(seed), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] != found[2]
    assert main(["tune-noise", f"npz[path={images}]", "--images", "20"]) == 0
    assert "20 of 90 training events, 36 dimensions, on [0, 1]" in capsys.readouterr().out


@pytest.mark.parametrize("events", ["images", "points"])
def test_what_it_prints_is_a_command_that_trains(images, tmp_path, capsys, events):
    """The words after 'train' are read by ``scoresde train``, and give a model with these noise scales."""
    if events == "points":
        np.savez(tmp_path / "points.npz", xy=np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32))
        images = f"{tmp_path}/points.npz,key=xy"
    assert main(["tune-noise", f"npz[path={images}]"]) == 0
    train, sampling = (shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()[-2:])
    assert (train[:2], sampling[:2]) == (["scoresde", "train"], ["scoresde", "sample"])
    assert sampling[sampling.index("--checkpoint") + 1] == train[train.index("--out") + 1]
    registry = load_registry()
    config = find_preset(registry, train[2]).override(train[3 : train.index("--out")])
    plan = plan_model(config, registry)
    dataset, preprocessing = plan_data(plan, registry)
    assert (dataset.shape, preprocessing.centered) == (plan.shape, False)
    if events == "images":
        assert plan.sde.sigma_max == pytest.approx(6, rel=1e-3)
        assert plan_loss(plan, registry).scales == plan.network.scales
    assert plan.sampler.steps == plan.network.scales
    assert plan.sampler.corrector.n_steps >= 1
    assert plan.build().network(torch.zeros(2, *plan.shape), torch.ones(2)).shape == (2, *plan.shape)


def test_points_need_a_number_of_scales(capsys):
    data = "exact[target=mixture2d,count=200,test_count=1]"
    assert main(["tune-noise", data]) == 2
    assert "choose the number of scales yourself" in capsys.readouterr().err
    assert main(["tune-noise", data, "--scales", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scales"], found["scaling"]) == (10, "as stored")
    assert 4 < found["sigma_max"] < 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "1"], "--images must be at least 2, got 1"),
        (["--budget", "0"], "--budget must be at least 1, got 0"),
        (["--sigma-min", "9"], "below sigma_max = 6, got 9"),
        (["--device", "nonsense"], "nonsense"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else None,
)
def test_bad_options_are_one_line(images, capsys, options, message):
    assert main(["tune-noise", f"npz[path={images}]", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_cifar10_as_jpegs(shared, capsys):
    data = f"jpeg_archive[path={shared / 'data' / 'cifar10_jpeg'}]"
    assert main(["tune-noise", data, "--images", "600", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    events = create("datasets", data).open("train")
    x = torch.stack([events[i] for i in order(0, 0, 50_000)[:600].tolist()]).flatten(1).double() / 255
    assert found["sigma_max"] == pytest.approx(float(torch.pdist(x).max()), rel=1e-5)
