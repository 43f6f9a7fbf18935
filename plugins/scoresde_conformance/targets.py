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
from .exact import directions_of
from .expect import agree, is_like, is_zero, near

FAR = 1e3  # standard deviations of noise under which a target is effectively Gaussian
LEVELS = (Level(0.01, 1.0, 0.05), Level(0.4, 0.8, 0.6), Level(0.9, 0.1, 0.995), Level(1.0, 1.0, 50.0))
SAMPLES, FEW = 2000, 500
"""The number of samples, and of samples of more than 16 dimensions at the quick level."""


def _exact(candidate: Candidate) -> Target:
    return candidate.component.to("cpu", torch.float64)  # type: ignore[no-any-return]


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
    is_like("sample(16)", first, (16, *target.shape), first.dtype)
    assert torch.equal(first, again), "two draws with seed 1 differ"
    assert not torch.equal(first, other), "seeds 1 and 2 give the same draws"


def score_is_the_gradient(candidate: Candidate) -> None:
    """score = grad log_prob, by automatic differentiation, for data and at every level.

    Data that are points have no density.
    """
    target = _exact(candidate)
    for level in LEVELS if target.discrete else (DATA, *LEVELS):
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
    directions = directions_of(target).T
    for level in LEVELS:
        x, eps = _perturbed(target, level, samples)
        score = target.score(x, level).flatten(1)
        rest = score + eps.flatten(1) / level.sigma
        along, offset = rest @ directions, (x.flatten(1) - x.flatten(1).mean(0)) @ directions
        at = f"at sigma = {level.sigma}"
        related = f"score + eps / sigma {at} is correlated with"
        is_zero((rest * score).sum(1), f"{related} score: their mean product")
        is_zero(along, f"the mean of score {at}, along direction {{}},")
        is_zero(along * offset, f"{related} x: their mean product along direction {{}}")


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
    is_zero(offsets, "the mean of moments along direction {}")
    is_zero(offsets.square() - variances, "the variance of moments along direction {}")


def moments_are_those_of_the_score(candidate: Candidate) -> None:
    """Under noise of 1000 standard deviations the score is that of a Gaussian with the target's mean and covariance.

    There E[x_0 | x] = m + C (x - m) / sigma^2, up to a relative error of 1e-6.
    """
    target = _exact(candidate)
    mean, covariance = target.moments()
    directions = directions_of(target)
    # The largest scale counts: noise of the smallest entries' scale would leave large entries non-Gaussian.
    sigma = FAR * math.sqrt(float(torch.linalg.eigvalsh(covariance)[-1]))
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
        told = f"exp(log_prob) at sigma = {level.sigma}, relative to the mean of N(x; alpha x_0, sigma^2 I),"
        is_zero(ratios.T - 1, told)


def entropy_is_the_mean_surprise(candidate: Candidate) -> None:
    """The entropy is the mean of -log_prob over samples, within 4 standard errors."""
    target, samples = _exact(candidate), _count(candidate)
    if target.discrete:
        raise Skip("its events are points, without a density")
    entropy = target.entropy()
    surprise = -target.log_prob(target.sample(samples, seed=5).double())
    # A constant density has no statistical error, but float32 samples and float64 arithmetic round.
    rounding = 1e-9 * (1 + abs(entropy.value))
    told = f"the mean of -log_prob over samples, from the entropy {entropy.value:.6g},"
    is_zero(surprise - entropy.value, told, entropy.stderr + rounding)


def takes_a_level_per_row(candidate: Candidate) -> None:
    """A level of tensors, 0-dim or with one value per row, gives the same as floats."""
    target = _exact(candidate)
    rows = LEVELS[:3]
    x = torch.cat([_perturbed(target, level, 1)[0] for level in rows])
    table = torch.tensor([(level.t, level.alpha, level.sigma) for level in rows], dtype=torch.float64)
    stacked = Level(*(column.reshape(-1, *[1] * len(target.shape)) for column in table.T))
    for name in ("score", "log_prob"):
        ask = getattr(target, name)
        floats, tensors = (
            torch.cat([ask(x[k : k + 1], level) for k, level in enumerate(levels)])
            for levels in (rows, [Level(*row) for row in table])
        )
        for how, found in (("one value per row", ask(x, stacked)), ("0-dim tensors", tensors)):
            _agree(found, floats, 1e-9, f"{name} at levels of {how} is off that at floats by")


def _with_components(candidate: Candidate) -> tuple[Target, Tensor, Tensor]:
    """Return the target, its weights and samples; :class:`Skip` without components."""
    target = _exact(candidate)
    weights = target.modes()
    if weights is None:
        raise Skip("it has no components")
    return target, weights, target.sample(_count(candidate), seed=7).double()


def components_share_the_samples(candidate: Candidate) -> None:
    """Weights and responsibilities sum to one, and the responsibilities of samples average to the weights."""
    target, weights, data = _with_components(candidate)
    assert abs(float(weights.sum()) - 1) <= 1e-6, f"modes sum to {float(weights.sum())}, expected 1"
    shares = target.responsibilities(data)
    is_like("responsibilities", shares, (len(data), len(weights)), shares.dtype)
    agree(shares.sum(1), 1, 1e-5, "responsibilities sum to one only within")
    # A rare component receives few samples: its error is that of the binomial law.
    found, error = shares.mean(0), (weights * (1 - weights) / len(data)).sqrt() + 1e-9
    k = int(((found - weights) / error).abs().argmax())
    told = f"compared with its weight in modes, the share of component {k} in the responsibilities of samples"
    near(told, found[k], weights[k], 4 * error[k])


def components_are_told_from_noisy_events(candidate: Candidate) -> None:
    """log_responsibilities are those of clean data at level DATA, and their conditional expectations at other levels.

    r_k(x_t) = E[r_k(x_0) | x_t]: the difference has the mean 0 and is uncorrelated with r_k(x_t).
    """
    target, _, data = _with_components(candidate)
    if type(target).log_responsibilities is Target.log_responsibilities:
        raise Skip("it has no log_responsibilities, which guidance by classes needs")
    found, expected = target.log_responsibilities(data).exp(), target.responsibilities(data)
    agree(found, expected, 1e-9, "exp(log_responsibilities) of clean data is off responsibilities by")
    clean = target.responsibilities(target.sample(len(data), seed=3).double())
    for level in LEVELS[:2]:  # at higher levels all events look alike
        x, _ = _perturbed(target, level, len(data))
        noisy = target.log_responsibilities(x, level).exp()
        agree(noisy.sum(1), 1, 1e-5, f"log_responsibilities at sigma = {level.sigma} sum to one only within")
        told = f"log_responsibilities of component {{}} at sigma = {level.sigma}: their mean"
        is_zero(clean - noisy, f"{told} share")
        is_zero((clean - noisy) * noisy, f"{told} square")


def answers_in_its_dtype(candidate: Candidate) -> None:
    """Scores and densities of float32 states are float32, and close to those in float64."""
    target, single = _exact(candidate), candidate.component.to("cpu", torch.float32)
    level = LEVELS[1]
    x, _ = _perturbed(target, level, 8)
    for name in ("score", "log_prob"):
        found, expected = getattr(single, name)(x.float(), level), getattr(target, name)(x, level)
        assert found.dtype == torch.float32, f"{name} of float32 is {found.dtype}"
        _agree(found.double(), expected, 1e-3, f"{name} in float32 is off by")
