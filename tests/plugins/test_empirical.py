"""The law of a data set: its score, density and patches against sums over all events in float64."""

import math

import numpy as np
import pytest
import torch
from operations import Results
from scoresde_core import DATA, ExactScore, Level, create, sample
from scoresde_core.errors import UsageError
from scoresde_plugins.targets import empirical
from scoresde_plugins.targets.empirical import EmpiricalTarget

LEVELS = [Level(0.1, 0.95, 0.02), Level(0.4, 0.8, 0.6), Level(1.0, 0.0, 1.0), Level(1.0, 1.0, 20.0)]


@pytest.fixture
def pictures(tmp_path):
    """Sixty images of two channels and unequal sides, with their values on [-1, 1]."""
    grey = np.random.default_rng(3).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    grey[0] = grey[1] + (grey[1] < 255)  # nearly equal
    np.save(tmp_path / "images.npy", grey)
    values = torch.from_numpy(grey).permute(0, 3, 1, 2).double() / 127.5 - 1
    return f"array[path={tmp_path}/images.npy,test_share=0.5]", values


def made(text, **more):
    return create("targets", "empirical", dataset=create("datasets", text), **more)


def plain(events, x, level):
    """log p and E[x_0 | x], by differences."""
    squared = (x.flatten(1)[:, None] - level.alpha * events.flatten(1)).square().sum(2) / (2 * level.sigma**2)
    volume = math.log(len(events)) + x[0].numel() / 2 * math.log(2 * math.pi * level.sigma**2)
    mean = (-squared).softmax(1) @ events.flatten(1)
    return (-squared).logsumexp(1) - volume, mean.reshape(x.shape)


def noisy(events, level, n=9):
    noise = torch.randn(n, *events.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return level.alpha * events[:n] + level.sigma * noise


def denoised(target, x, level):
    return x + level.sigma**2 * target.score(x, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("entries", [2**22, 40, 700])
def test_it_is_the_sum_over_all_events(pictures, level, entries, monkeypatch):
    """In one block, and in blocks of one or a few rows and events."""
    monkeypatch.setattr(empirical, "_ENTRIES", entries)
    target = made(pictures[0]).to("cpu", torch.float64)
    events = pictures[1][create("datasets", pictures[0]).rows(60, "train")]
    x = noisy(events, level)
    density, mean = plain(events, x, level)
    torch.testing.assert_close(denoised(target, x, level), level.alpha * mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(target.log_prob(x, level), density, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.2, 1.0, 5.0])
def test_no_number_is_denormal(tmp_path, sigma, monkeypatch):
    """On some processors products with denormal numbers take a hundred times as long. One entry hardly varies."""
    monkeypatch.setattr(empirical, "_ENTRIES", 40)
    points = torch.randn(60, 30, generator=torch.Generator().manual_seed(2))
    points[:, 0] = 1e-4 * points[:, 1]
    np.save(tmp_path / "points.npy", points.numpy())
    target, level = made(f"array[path={tmp_path}/points.npy,test={tmp_path}/points.npy]"), Level(0.3, 0.9, sigma)
    x = noisy(points.double(), level).float()
    with Results() as results:
        target.score(x, level)
    assert results.denormal == 0


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.2, 1.0, 5.0])
def test_float32_keeps_its_digits_where_events_are_near(tmp_path, sigma):
    """Pairs of events with entries near 3 that differ by 0.001: under noise of 0.02 their weights are comparable."""
    g = torch.Generator().manual_seed(0)
    one = 3 + torch.randn(100, 400, generator=g)
    events = torch.cat([one, one + 0.001 * torch.randn(one.shape, generator=g)])
    np.save(tmp_path / "points.npy", events.numpy())
    target = made(f"array[path={tmp_path}/points.npy,test={tmp_path}/points.npy]")
    level = Level(0.3, 0.9, sigma)
    x = noisy(events.double(), level, 20).float()
    _, mean = plain(events.double(), x.double(), level)
    score = target.score(x, level)
    assert score.dtype == torch.float32
    found = (x.double() + level.sigma**2 * score.double()) / level.alpha
    assert float((found - mean).abs().max()) < (5e-6 if sigma < 0.1 else 1e-4 * max(1.0, sigma))


@pytest.mark.parametrize("position", ["same", "any"])
@pytest.mark.parametrize("entries", [2**22, 900])
def test_a_patch_has_a_posterior_at_every_pixel(pictures, position, entries, monkeypatch):
    monkeypatch.setattr(empirical, "_ENTRIES", entries)
    target = made(pictures[0], patch=3, position=position, count=7).to("cpu", torch.float64)
    events = pictures[1][create("datasets", pictures[0]).rows(60, "train")][:7]
    level = Level(0.4, 0.8, 0.5)
    x = noisy(events, level, 4)
    center = events.mean(0) if position == "same" else events.mean((0, 2, 3))[:, None, None].expand(events[0].shape)
    rows, columns = x.shape[2:]

    def seen(image, at):
        """A patch around a pixel, with 0 beyond the edge."""
        i, j = at
        cut = torch.zeros(3, 3, 3, dtype=torch.float64)
        for a in range(3):
            for b in range(3):
                if 0 <= i + a - 1 < rows and 0 <= j + b - 1 < columns:
                    cut[:, a, b] = image[:, i + a - 1, j + b - 1]
        return cut

    everywhere = [(i, j) for i in range(rows) for j in range(columns)]
    patches = {at: torch.stack([seen(event - center, at) for event in events]) for at in everywhere}
    expected = torch.empty_like(x)
    for at in everywhere:
        places = [at] if position == "same" else everywhere
        keys = torch.cat([patches[place] for place in places]).flatten(1)
        values = torch.cat([events[:, :, i, j] for i, j in places])
        for row, image in enumerate(x):
            gap = seen(image - level.alpha * center, at).flatten() - level.alpha * keys
            expected[row][:, at[0], at[1]] = (-gap.square().sum(1) / (2 * level.sigma**2)).softmax(0) @ values
    torch.testing.assert_close(denoised(target, x, level), level.alpha * expected, rtol=1e-6, atol=1e-6)


def test_a_patch_larger_than_twice_the_event_is_the_whole_event(pictures):
    whole, local = made(pictures[0]), made(pictures[0], patch=13, position="same")
    x = noisy(pictures[1], LEVELS[1]).float()
    torch.testing.assert_close(local.score(x, LEVELS[1]), whole.score(x, LEVELS[1]), rtol=1e-4, atol=1e-4)


def test_its_draws_are_events_and_depend_on_the_seed_alone(pictures):
    target = made(pictures[0])
    drawn = target.sample(500, seed=3)
    gaps = torch.cdist(drawn.flatten(1).double(), pictures[1].flatten(1))
    assert float(gaps.min(1).values.max()) < 1e-5
    assert len(torch.unique(gaps.argmin(1))) == 30  # all events of the split
    assert torch.equal(target.sample(20, seed=3), drawn[:20])
    assert target.images


def test_samples_with_its_score_are_events(pictures):
    target = made(pictures[0])
    found = sample(ExactScore(target, create("sdes", "vp")), create("samplers", "pc[predictor=ddim,steps=60]"), 12).x
    assert float(torch.cdist(found.flatten(1).double(), pictures[1].flatten(1)).min(1).values.max()) < 0.05


def test_what_has_no_density_is_refused(pictures):
    target = made(pictures[0])
    x = pictures[1][:2].float()
    for ask in (lambda: target.log_prob(x), lambda: target.score(x, DATA), target.entropy):
        with pytest.raises(UsageError, match="without a density: ask for log_prob and score at sigma > 0"):
            ask()
    with pytest.raises(UsageError, match="leave patch=3 out"):
        made(pictures[0], patch=3).log_prob(x, LEVELS[1])
    with pytest.raises(UsageError, match="patch needs an odd side and images, got 4"):
        made(pictures[0], patch=4)
    with pytest.raises(UsageError, match="got 3 for events of shape \\(2,\\)"):
        made("exact[target=mixture2d]", patch=3)
    with pytest.raises(UsageError, match="count=31 is more than the 30 events"):
        made(pictures[0], count=31)
    assert isinstance(made(pictures[0], count=30), EmpiricalTarget)
