"""Targets: samples, density, score and moments describe one distribution, at every noise level.

At a level, ``x = alpha x_0 + sigma eps`` with exact ``x_0`` and known ``eps``, and ``score = -E[eps | x] / sigma``. So
``score + eps / sigma`` is uncorrelated with every function of x: the score is compared with the samples, in any
dimension, without a density (denoising score matching: Vincent 2011, doi:10.1162/NECO_a_00142).
"""

import math
from math import prod

import torch
from torch import Tensor
from scoresde_core import DATA, Level, Target
from .candidate import Candidate, Skip
from .exact import agree, directions_of, is_zero

FAR = 1e3
"""Standard deviations of noise under which a target is effectively Gaussian."""
LEVELS = (Level(0.01, 1.0, 0.05), Level(0.4, 0.8, 0.6), Level(0.9, 0.1, 0.995), Level(1.0, 1.0, 50.0))
SAMPLES, FEW = 2000, 500
"""The number of samples, and of samples of more than 16 dimensions at the quick level."""


def _exact(candidate: Candidate) -> Target:
    target: Target = candidate.component.to("cpu", torch.float64)
    return target


def _count(candidate: Candidate) -> int:
    return SAMPLES if candidate.full or prod(candidate.component.shape) <= 16 else FEW


def _perturbed(target: Target, level: Level, n: int) -> tuple[Tensor, Tensor]:
    """Return exact draws at a level, and their noise, float64."""
    eps = torch.randn(n, *target.shape, dtype=torch.float64)
    return level.alpha * target.sample(n, seed=3).double() + level.sigma * eps, eps


def _agree(found: Tensor, expected: Tensor, share: float, what: str) -> None:
    """Two tensors differ by at most a ``share`` of the largest value, or of 1e-6 if all are about 0."""
    size = max(float(expected.abs().max()), 1e-6)
    agree(found / size, expected / size, share, f"relative to the largest value, {what}")


def samples_follow_the_seed(candidate: Candidate) -> None:
    """``sample`` gives n finite events of the shape, the same for the same seed and others for another."""
    target: Target = candidate.component
    first, again, other = (target.sample(16, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (16, *target.shape), f"sample(16) has shape {tuple(first.shape)}, events {target.shape}"
    assert bool(first.isfinite().all()), "samples are not finite"
    assert torch.equal(first, again), "two draws with seed 1 differ"
    assert not torch.equal(first, other), "seeds 1 and 2 give the same draws"


def score_is_the_gradient(candidate: Candidate) -> None:
    """score = grad log_prob, by automatic differentiation, for data and at every level."""
    target = _exact(candidate)
    for level in (DATA, *LEVELS):
        x, _ = _perturbed(target, level, 8)
        x.requires_grad_(True)
        # A density that is constant at the samples does not depend on x, and has a gradient of 0.
        density = target.log_prob(x, level).sum() + 0 * x.sum()
        (expected,) = torch.autograd.grad(density, x)
        found = target.score(x.detach(), level)
        assert found.shape == x.shape, f"score of {tuple(x.shape)} has shape {tuple(found.shape)}"
        _agree(found, expected, 1e-6, f"score at sigma = {level.sigma} is off the gradient of log_prob by")


def score_fits_the_samples(candidate: Candidate) -> None:
    """At every level, score + eps/sigma is uncorrelated with the score and with x along random directions."""
    target, samples = _exact(candidate), _count(candidate)
    directions = directions_of(target)
    for level in LEVELS:
        x, eps = _perturbed(target, level, samples)
        score = target.score(x, level).flatten(1)
        rest = score + eps.flatten(1) / level.sigma
        is_zero(
            (rest * score).sum(1),
            f"score + eps / sigma at sigma = {level.sigma} is correlated with score: their mean product",
        )
        along, mean = rest @ directions.T, x.flatten(1).mean(0)
        product = f"score + eps / sigma at sigma = {level.sigma} is correlated with x: their mean product"
        for k, slope in enumerate(along.T):
            is_zero(slope, f"the mean of score at sigma = {level.sigma}, along direction {k},")
            offset = (x.flatten(1) - mean) @ directions[k]
            is_zero(slope * offset, f"{product} along direction {k}")


def moments_are_those_of_samples(candidate: Candidate) -> None:
    """Mean and covariance, along random directions, are those of the samples within 4 standard errors."""
    target, samples = _exact(candidate), _count(candidate)
    mean, covariance = target.moments()
    size = prod(target.shape)
    shapes = (tuple(mean.shape), tuple(covariance.shape))
    assert shapes == ((size,), (size, size)), f"moments have shapes {shapes}, expected {(size,)} and {(size, size)}"
    directions = directions_of(target)
    offsets = (target.sample(samples, seed=4).double().flatten(1) - mean) @ directions.T
    variances = ((directions @ covariance) * directions).sum(1)
    for k in range(len(directions)):
        is_zero(offsets[:, k], f"the mean of moments along direction {k}")
        is_zero(offsets[:, k].square() - variances[k], f"the variance of moments along direction {k}")


def moments_are_those_of_the_score(candidate: Candidate) -> None:
    """Under noise of 1000 standard deviations the score is that of a Gaussian with the target's mean and covariance.

    There E[x_0 | x] = m + C (x - m) / sigma^2, up to a relative error of 1e-6.
    """
    target = _exact(candidate)
    mean, covariance = target.moments()
    directions = directions_of(target)
    # The largest scale counts: noise of the smallest entries' scale would leave large entries non-Gaussian.
    sigma = FAR * math.sqrt(float(torch.linalg.matrix_norm(covariance, 2)))
    level = Level(1.0, 1.0, sigma)

    def denoised(x: Tensor) -> Tensor:
        return x + sigma**2 * target.score(x.reshape(-1, *target.shape), level).flatten(1)

    above, below = (denoised(mean + side * sigma * directions) for side in (1, -1))
    scale = float(covariance.diagonal().max().sqrt())
    of_score = "that of score under much noise"
    agree(0.5 * (above + below) / scale, mean / scale, 0.01, f"the mean of moments, in stds, is off {of_score} by")
    slopes = 0.5 * (above - below) * sigma
    _agree(slopes, directions @ covariance, 1e-3, f"the covariance of moments is off {of_score} by")


def density_is_normalised(candidate: Candidate) -> None:
    """In few dimensions, the density at a level is the mean of N(x; alpha x_0, sigma^2) over exact x_0."""
    target = _exact(candidate)
    size = prod(target.shape)
    if size > 4:
        raise Skip(f"events of {size} dimensions are too large for the mean over samples; up to 4 are checked")
    centres = target.sample(20_000, seed=6).double().flatten(1)
    for level in LEVELS[1:]:
        x, _ = _perturbed(target, level, 16)
        squared = torch.cdist(x.flatten(1), level.alpha * centres).square()
        logs = -squared / (2 * level.sigma**2) - 0.5 * size * math.log(2 * math.pi * level.sigma**2)
        ratios = (logs - target.log_prob(x, level).unsqueeze(1)).exp()
        for ratio in ratios:
            is_zero(
                ratio - 1,
                f"exp(log_prob) at sigma = {level.sigma}, relative to the mean of N(x; alpha x_0, sigma^2 I),",
            )


def entropy_is_the_mean_surprise(candidate: Candidate) -> None:
    """The entropy is the mean of -log_prob over samples, within 4 standard errors."""
    target, samples = _exact(candidate), _count(candidate)
    entropy = target.entropy()
    surprise = -target.log_prob(target.sample(samples, seed=5).double())
    found = float(surprise.mean())
    # A constant density has no statistical error, but float32 samples and float64 arithmetic round.
    error = math.hypot(float(surprise.std()) / math.sqrt(samples), entropy.stderr) + 1e-9 * (1 + abs(found))
    assert abs(found - entropy.value) <= 4 * error, (
        f"entropy is {entropy.value:.6g}, but the mean of -log_prob over samples is {found:.6g}, "
        f"with a standard error of {error:.2g}"
    )


def takes_a_level_per_row(candidate: Candidate) -> None:
    """A level of tensors, 0-dim or with one value per row, gives the same as floats."""
    target = _exact(candidate)
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
        for how, found in (("one value per row", ask(x, stacked)), ("0-dim tensors", each)):
            _agree(found, expected, 1e-9, f"{name} at levels of {how} is off that at floats by")


def components_share_the_samples(candidate: Candidate) -> None:
    """Weights and responsibilities sum to one, and the responsibilities of samples average to the weights."""
    target, samples = _exact(candidate), _count(candidate)
    weights = target.modes()
    if weights is None:
        raise Skip("it has no components")
    assert abs(float(weights.sum()) - 1) <= 1e-6, f"modes sum to {float(weights.sum())}, expected 1"
    shares = target.responsibilities(target.sample(samples, seed=7).double())
    assert shares.shape == (samples, len(weights)), f"responsibilities have shape {tuple(shares.shape)}"
    agree(shares.sum(1), 1, 1e-5, "responsibilities sum to one only within")
    for k, weight in enumerate(weights.to(shares)):
        # A rare component receives few samples: its error is that of the binomial law.
        error = math.sqrt(float(weight * (1 - weight)) / samples) + 1e-9
        off = (float(shares[:, k].mean()) - float(weight)) / error
        assert abs(off) <= 4, (
            f"component {k} has {float(shares[:, k].mean()):.4f} of the responsibilities of samples, "
            f"but {float(weight):.4f} in modes"
        )


def components_are_told_from_noisy_events(candidate: Candidate) -> None:
    """log_responsibilities are those of clean data at level DATA, and their conditional expectations at other levels.

    r_k(x_t) = E[r_k(x_0) | x_t]: the difference has the mean 0 and is uncorrelated with r_k(x_t).
    """
    target, samples = _exact(candidate), _count(candidate)
    weights = target.modes()
    if weights is None:
        raise Skip("it has no components")
    if type(target).log_responsibilities is Target.log_responsibilities:
        raise Skip("it has no log_responsibilities, which guidance by classes needs")
    data = target.sample(samples, seed=7).double()
    found, expected = target.log_responsibilities(data).exp(), target.responsibilities(data)
    agree(found, expected, 1e-9, "exp(log_responsibilities) of clean data is off responsibilities by")
    clean = target.responsibilities(target.sample(samples, seed=3).double())
    for level in LEVELS[:2]:  # at higher levels all events look alike
        x, _ = _perturbed(target, level, samples)
        noisy = target.log_responsibilities(x, level).exp()
        agree(noisy.sum(1), 1, 1e-5, f"log_responsibilities at sigma = {level.sigma} sum to one only within")
        for k in range(len(weights)):
            rest = clean[:, k] - noisy[:, k]
            is_zero(rest, f"log_responsibilities of component {k} at sigma = {level.sigma}: their mean share")
            is_zero(
                rest * noisy[:, k], f"log_responsibilities of component {k} at sigma = {level.sigma}: their mean square"
            )


def answers_in_its_dtype(candidate: Candidate) -> None:
    """Scores and densities of float32 states are float32, and close to those in float64."""
    target, single = _exact(candidate), candidate.component.to("cpu", torch.float32)
    level = LEVELS[1]
    x, _ = _perturbed(target, level, 8)
    for name in ("score", "log_prob"):
        found, expected = getattr(single, name)(x.float(), level), getattr(target, name)(x, level)
        assert found.dtype == torch.float32, f"{name} of float32 is {found.dtype}"
        _agree(found.double(), expected, 1e-3, f"{name} in float32 is off by")
