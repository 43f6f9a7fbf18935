r"""Targets: samples, density, score and moments describe one distribution, at every noise level.

At a level, ``x = alpha x_0 + sigma eps`` with exact ``x_0`` and known ``eps``, and ``score = -E[eps | x] / sigma``. So
``score + eps / sigma`` is uncorrelated with every function of x: the score is held against the samples, in any
dimension, without a density (denoising score matching: Vincent 2011, doi:10.1162/NECO_a_00142).
"""

from __future__ import annotations

import math
from math import prod

import torch
from torch import Tensor

from ..sde import DATA, Level
from ..target import Target
from .suite import Skip, Subject

LEVELS = (Level(0.01, 1.0, 0.05), Level(0.4, 0.8, 0.6), Level(0.9, 0.1, 0.995), Level(1.0, 1.0, 50.0))
SAMPLES, DIRECTIONS = 2000, 8


def _exact(subject: Subject) -> Target:
    target: Target = subject.component.to("cpu", torch.float64)
    return target


def _perturbed(target: Target, level: Level, n: int) -> tuple[Tensor, Tensor]:
    """Exact draws at a level, and their noise, float64."""
    eps = torch.randn(n, *target.shape, dtype=torch.float64)
    return level.alpha * target.sample(n, seed=3).double() + level.sigma * eps, eps


def _directions(target: Target) -> Tensor:
    """(DIRECTIONS, D) random unit vectors: the moments of all coordinates at once."""
    vectors = torch.randn(DIRECTIONS, prod(target.shape), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors)


def _is_zero(values: Tensor, what: str) -> None:
    """The mean of independent values (n,) is 0 within 4 standard errors."""
    error = float(values.std()) / math.sqrt(len(values))
    found = float(values.mean())
    assert abs(found) <= 4 * error + 1e-12, (
        f"{what} is off by {found:+.4g}, which is {found / error:+.1f} standard errors"
    )


def samples_follow_the_seed(subject: Subject) -> None:
    """n finite events of the shape; the same seed gives the same, another seed others."""
    target: Target = subject.component
    first, again, other = (target.sample(16, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (16, *target.shape), f"sample(16) has shape {tuple(first.shape)}, events {target.shape}"
    assert bool(first.isfinite().all()), "samples are not finite"
    assert torch.equal(first, again), "two draws with seed 1 differ"
    assert not torch.equal(first, other), "seeds 1 and 2 give the same draws"


def score_is_the_gradient(subject: Subject) -> None:
    """score = grad log_prob, by automatic differentiation, for data and at every level."""
    target = _exact(subject)
    for level in (DATA, *LEVELS):
        x, _ = _perturbed(target, level, 8)
        x.requires_grad_(True)
        (expected,) = torch.autograd.grad(target.log_prob(x, level).sum(), x)
        found = target.score(x.detach(), level)
        assert found.shape == x.shape, f"the score of {tuple(x.shape)} has shape {tuple(found.shape)}"
        gap = float((found - expected).abs().max() / expected.abs().max())
        assert gap <= 1e-6, f"the score at sigma = {level.sigma} is off the gradient of log_prob by {gap:.2g}"


def score_fits_the_samples(subject: Subject) -> None:
    """At every level, score + eps/sigma is uncorrelated with the score and with x along random directions."""
    target = _exact(subject)
    directions = _directions(target)
    for level in LEVELS:
        x, eps = _perturbed(target, level, SAMPLES)
        score = target.score(x, level).flatten(1)
        rest = score + eps.flatten(1) / level.sigma
        _is_zero((rest * score).sum(1), f"the score's power at sigma = {level.sigma}")
        along, mean = rest @ directions.T, x.flatten(1).mean(0)
        for k, slope in enumerate(along.T):
            _is_zero(slope, f"the mean score along direction {k} at sigma = {level.sigma}")
            offset = (x.flatten(1) - mean) @ directions[k]
            _is_zero(slope * offset, f"the score's slope along direction {k} at sigma = {level.sigma}")


def moments_are_those_of_samples(subject: Subject) -> None:
    """Mean and covariance, along random directions, are those of the samples within 4 standard errors."""
    target = _exact(subject)
    mean, covariance = target.moments()
    size = prod(target.shape)
    shapes = (tuple(mean.shape), tuple(covariance.shape))
    assert shapes == ((size,), (size, size)), f"moments have shapes {shapes}, expected {(size,)} and {(size, size)}"
    directions = _directions(target)
    offsets = (target.sample(SAMPLES, seed=4).double().flatten(1) - mean) @ directions.T
    variances = ((directions @ covariance) * directions).sum(1)
    for k in range(DIRECTIONS):
        _is_zero(offsets[:, k], f"the mean along direction {k}")
        _is_zero(offsets[:, k].square() - variances[k], f"the variance along direction {k}")


def density_is_normalised(subject: Subject) -> None:
    """In few dimensions, the density at a level is the mean of N(x; alpha x_0, sigma^2) over exact x_0."""
    target = _exact(subject)
    size = prod(target.shape)
    if size > 4:
        raise Skip(f"events of {size} dimensions are too wide for the mean over samples; up to 4 are checked")
    centres = target.sample(20_000, seed=6).double().flatten(1)
    for level in LEVELS[1:]:
        x, _ = _perturbed(target, level, 16)
        squared = torch.cdist(x.flatten(1), level.alpha * centres).square()
        logs = -squared / (2 * level.sigma**2) - 0.5 * size * math.log(2 * math.pi * level.sigma**2)
        ratios = (logs - target.log_prob(x, level).unsqueeze(1)).exp()
        for k, ratio in enumerate(ratios):
            _is_zero(ratio - 1, f"the density at point {k} and sigma = {level.sigma}, relative,")


def entropy_is_the_mean_surprise(subject: Subject) -> None:
    """The entropy is the mean of -log_prob over samples, within 4 standard errors."""
    target = _exact(subject)
    entropy = target.entropy()
    surprise = -target.log_prob(target.sample(SAMPLES, seed=5).double())
    error = math.hypot(float(surprise.std()) / math.sqrt(SAMPLES), entropy.stderr)
    off = (float(surprise.mean()) - entropy.value) / error
    assert abs(off) <= 4, (
        f"the entropy is {entropy.value:.4f}, but samples give {float(surprise.mean()):.4f}: {off:+.1f} standard errors"
    )


def takes_a_level_per_row(subject: Subject) -> None:
    """A level of tensors, 0-dim or one value a row, gives what floats give."""
    target = _exact(subject)
    rows = LEVELS[:3]
    x = torch.cat([_perturbed(target, level, 1)[0] for level in rows])
    shape = (-1, *[1] * len(target.shape))
    columns = torch.tensor([(v.t, v.alpha, v.sigma) for v in rows], dtype=torch.float64).T
    stacked = Level(*(column.reshape(shape) for column in columns))
    for name in ("score", "log_prob"):
        ask = getattr(target, name)
        expected = torch.cat([ask(x[k : k + 1], level) for k, level in enumerate(rows)])
        zero_dim = [Level(*(torch.tensor(v, dtype=torch.float64) for v in (u.t, u.alpha, u.sigma))) for u in rows]
        each = torch.cat([ask(x[k : k + 1], level) for k, level in enumerate(zero_dim)])
        for how, found in (("one value a row", ask(x, stacked)), ("0-dim tensors", each)):
            gap = float((found - expected).abs().max() / expected.abs().max())
            assert gap <= 1e-9, f"{name} at levels of {how} is off by {gap:.2g} from that at floats"


def components_share_the_samples(subject: Subject) -> None:
    """Weights and responsibilities sum to one, and responsibilities average to the weights, with noise as without."""
    target = _exact(subject)
    weights = target.modes()
    if weights is None:
        raise Skip("it has no components")
    assert abs(float(weights.sum()) - 1) <= 1e-6, f"the weights sum to {float(weights.sum())}, expected 1"
    data = target.sample(SAMPLES, seed=7).double()
    shares = target.responsibilities(data)
    assert shares.shape == (SAMPLES, len(weights)), f"responsibilities have shape {tuple(shares.shape)}"
    gap = float((shares.sum(1) - 1).abs().max())
    assert gap <= 1e-5, f"responsibilities sum to one only within {gap:.2g}"
    averages = {"": shares}
    if type(target).log_responsibilities is not Target.log_responsibilities:  # class guidance alone needs them
        gap = float((target.log_responsibilities(data).exp() - shares).abs().max())
        assert gap <= 1e-5, f"log_responsibilities of clean data are off log(responsibilities) by {gap:.2g}"
        noisy, _ = _perturbed(target, LEVELS[1], SAMPLES)
        averages[" with noise"] = target.log_responsibilities(noisy, LEVELS[1]).exp()
    for how, found in averages.items():
        for k, weight in enumerate(weights.to(found)):
            # Few samples fall on a rare component: its error is at most that of the binomial law.
            error = math.sqrt(float(weight * (1 - weight)) / SAMPLES) + 1e-9
            mean = float(found[:, k].mean())
            assert abs(mean - float(weight)) <= 4 * error, (
                f"component {k} has {mean:.4f} of the samples{how}, weight {float(weight):.4f}"
            )


def answers_in_its_dtype(subject: Subject) -> None:
    """Scores and densities of float32 states are float32, and near those in float64."""
    target, single = _exact(subject), subject.component.to("cpu", torch.float32)
    level = LEVELS[1]
    x, _ = _perturbed(target, level, 8)
    for name in ("score", "log_prob"):
        found, expected = getattr(single, name)(x.float(), level), getattr(target, name)(x, level)
        assert found.dtype == torch.float32, f"{name} of float32 is {found.dtype}"
        gap = float((found.double() - expected).abs().max() / expected.abs().max())
        assert gap <= 1e-3, f"{name} in float32 is off by {gap:.2g} of its size"


CHECKS = (
    samples_follow_the_seed,
    score_is_the_gradient,
    score_fits_the_samples,
    moments_are_those_of_samples,
    density_is_normalised,
    entropy_is_the_mean_surprise,
    takes_a_level_per_row,
    components_share_the_samples,
    answers_in_its_dtype,
)
