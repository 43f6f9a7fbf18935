"""Fits a mixture of factor analysers to images by expectation maximisation (Ghahramani & Hinton 1996, CRG-TR-96-1).

With z~ = [z; 1] and W~_k = [W_k, mu_k], one pass over the data collects, for each component,

    N_k = sum_n r_nk,    A_k = sum_n r_nk x_n E[z~ | x_n, k]^T,    B_k = sum_n r_nk E[z~ z~^T | x_n, k]

and the maximisation is W~_k = A_k B_k^-1, pi_k = N_k / N, psi = diag(sum_n x_n x_n^T - sum_k W~_k A_k^T) / N.
The objective rises up to this value of each entry of psi and falls beyond it, so clamping psi to bounds is the exact
step under these bounds, and the likelihood still never decreases. The products are those of a score call.

uint8 images become a density on [-1, 1] by uniform dequantisation, 2 (v + u) / 256 - 1, with one draw of u for the
whole fit. The likelihood of such a density bounds that of the grey levels (Theis et al. 2016, arXiv:1511.01844).
"""

import math
from collections.abc import Callable
from math import prod
from pathlib import Path

import attrs
import torch
from torch import Tensor
from scoresde_run import Units
from .mfa import rounded, write
from .mixture import MixtureOfFactorAnalysers, bounded

AfterPass = Callable[[int, int, float], None]
"""Called after each pass with (pass, passes, mean log-likelihood of the parameters before it, in nats per image)."""

_CHUNK = 4096
_KMEANS_PASSES, _POWER_PASSES = 10, 6
_STARVED = 0.05  # a component with less than this share of N / K events is re-seeded
_RIDGE = 1e-10  # in events: keeps B_k invertible if N_k underflows


@attrs.frozen
class Report:
    """The settings of a fit and its quality; likelihoods are in nats per image."""

    components: int
    factors: int
    iterations: int
    floor: float
    ceiling: float
    seed: int
    images: int
    log_likelihoods: tuple[float, ...]
    reseeded: int
    held_out_images: int
    held_out_log_likelihood: float
    held_out_stderr: float
    held_out_bits_per_dim: float


def dequantized(images: Tensor, seed: int) -> Tensor:
    """uint8 (N, *shape) -> 2 (v + u) / 256 - 1 in float32, u uniform on [0, 1), seeded by ``seed``."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}: convert them to integers of 0 to 255")
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    return Units(levels=256).encode(images, noise)


def fit_mfa(
    images: Tensor, held_out: Tensor, components: int = 32, factors: int = 13, iterations: int = 50,
    floor: float = 0.05, ceiling: float = 1.0, seed: int = 0, progress: AfterPass | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[MixtureOfFactorAnalysers, Report]:  # fmt: skip
    """Fit to uint8 ``images`` (N, *shape), judge on ``held_out`` (M, *shape); return the target and its report.

    ``floor`` and ``ceiling`` bound the standard deviation of the diagonal noise, in data units on [-1, 1], where no
    entry's exceeds 1. The fit starts from k-means++ and a few passes of k-means; the target is rounded to the precision
    of its file. The same arguments give the same target on the same machine. Products are in ``dtype``, sums and solves
    in float64. Settings out of range and images that are not uint8 raise ``ValueError``.
    """
    _check(images, held_out, components, factors, iterations, floor, ceiling)
    shape = tuple(images.shape[1:])
    x = dequantized(images, seed).flatten(1).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    bounds = (floor**2, ceiling**2)
    target = _start(x, components, factors, bounds, shape, generator)
    trace, reseeded = list[float](), 0
    for iteration in range(1, iterations + 1):
        log_likelihood, target, starved = _step(target, x, bounds, generator)
        trace.append(log_likelihood)
        reseeded += starved
        if progress is not None:
            progress(iteration, iterations, trace[-1])
    target = rounded(_canonical(target))
    judged = log_likelihoods(target, dequantized(held_out, seed + 2))
    mean = float(judged.mean())
    report = Report(
        components, factors, iterations, floor, ceiling, seed, len(images), tuple(trace), reseeded, len(held_out), mean,
        float(judged.std()) / math.sqrt(len(judged)), bits_per_dim(mean, prod(shape)),
    )  # fmt: skip
    return target, report


def save(path: str | Path, target: MixtureOfFactorAnalysers, report: Report, data: str = "", asked: str = "") -> None:
    """Write a fit with its report, its entropy and the name of the data; raise FileError if ``path`` exists."""
    write(path, target, {"data": data, **attrs.asdict(report)}, asked)


def log_likelihoods(target: MixtureOfFactorAnalysers, x: Tensor) -> Tensor:
    """Return log p(x) of a data set of any size in float64, (N, *shape) -> (N,)."""
    return torch.cat([target.log_prob(x[i : i + _CHUNK].double()) for i in range(0, len(x), _CHUNK)])


def bits_per_dim(log_likelihood: float, dim: int) -> float:
    """Convert nats of an image on [-1, 1] to bits per dimension of its 256 grey levels, each 1/128 wide."""
    return -log_likelihood / (dim * math.log(2)) + math.log2(256 / 2)


def _step(
    target: MixtureOfFactorAnalysers, x: Tensor, bounds: tuple[float, float], generator: torch.Generator
) -> tuple[float, MixtureOfFactorAnalysers, int]:
    """Return the mean log-likelihood, the next mixture, and how many starved components were re-seeded in it.

    Sums are in float64, about the centre of the mixture.
    """
    components, factors, dim = target.factors.shape
    count = torch.zeros(components, dtype=torch.float64)
    cross = torch.zeros(components * (factors + 1), dim, dtype=torch.float64)
    second = torch.zeros(components, factors + 1, factors + 1, dtype=torch.float64)
    square = torch.zeros(dim, dtype=torch.float64)
    total = 0.0
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK]
        posterior = target.infer(part.reshape(-1, *target.shape))
        centred = part - target.center.to(part)
        turn = posterior.components.turn.squeeze(0)
        hidden = turn.mT @ posterior.u  # of the factors E[z | k, x] = R^-T u
        hidden[:, -1] = 1
        weighted = hidden * bounded(posterior.joint, 0).softmax(0).unsqueeze(1)
        count += weighted[:, -1].sum(1)
        cross += weighted.flatten(0, 1) @ centred
        second += weighted @ hidden.mT
        square += centred.square().sum(0)
        total += float(posterior.log_prob().double().sum())
    # E[z z^T] is the outer product of the means and the posterior covariance R^-T R^-1, the same for every event.
    inverse = turn[:, :-1, :-1].double()
    second[:, :-1, :-1] += count[:, None, None] * (inverse.mT @ inverse)
    cross = cross.reshape(components, factors + 1, dim)
    stack = torch.linalg.solve(second + _RIDGE * torch.eye(factors + 1, dtype=torch.float64), cross)
    noise = ((square - (stack * cross).sum((0, 1))) / len(x)).clamp(*bounds)
    weights, axes, means = count / len(x), stack[:, :-1], stack[:, -1] + target.center
    starved = weights < _STARVED / len(weights)
    for k in starved.nonzero().flatten().tolist():
        # Half of the largest component moves here, slightly displaced: the two separate within a few passes.
        donor = int(weights.argmax())
        aside = torch.randn(noise.shape, generator=generator, dtype=torch.float64) * noise.sqrt()
        means[k], axes[k] = means[donor] + aside, axes[donor]
        weights[k] = weights[donor] = weights[donor] / 2
    found = MixtureOfFactorAnalysers(weights, means, axes, noise, target.shape, dtype=x.dtype)
    return total / len(x), found, int(starved.sum())


def _start(
    x: Tensor, components: int, factors: int, bounds: tuple[float, float], shape: tuple[int, ...],
    generator: torch.Generator,
) -> MixtureOfFactorAnalysers:  # fmt: skip
    """Return a mixture from k-means and nearly principal axes of each cluster; the noise is the residual variance."""
    nearest = _kmeans(x, _plus_plus(x, components, generator))
    means, axes, left = [], [], torch.zeros(x.shape[1], dtype=torch.float64)
    for k in range(components):
        members = x[nearest == k]
        mean = members.double().mean(0)
        members = members - mean.to(x.dtype)
        directions = torch.randn(x.shape[1], factors, generator=generator, dtype=x.dtype)
        for _ in range(_POWER_PASSES):
            directions = torch.linalg.qr(members.T @ (members @ directions)).Q
        inside = members @ directions
        # A zero column would be a fixed point of EM, so every axis has at least the floor's length.
        axes.append((directions * (inside.square().mean(0) + bounds[0]).sqrt()).T)
        left += (members - inside @ directions.T).double().square().sum(0)
        means.append(mean)
    weights = nearest.bincount(minlength=components).double() / len(x)
    noise = (left / len(x)).clamp(*bounds)
    return MixtureOfFactorAnalysers(weights, torch.stack(means), torch.stack(axes), noise, shape, dtype=x.dtype)


def _plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Return k-means++ centres (k, D): each is drawn in proportion to the squared distance to the previous ones."""
    first = int(torch.randint(len(x), (), generator=generator))
    centers, distance = [x[first]], _squared_distance(x, x[first : first + 1]).squeeze(1)
    while len(centers) < k:
        cumulative = distance.double().cumsum(0)
        target = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
        drawn = min(int(torch.searchsorted(cumulative, target)), len(x) - 1)
        centers.append(x[drawn])
        distance = torch.minimum(distance, _squared_distance(x, x[drawn : drawn + 1]).squeeze(1))
    return torch.stack(centers)


def _kmeans(x: Tensor, centers: Tensor) -> Tensor:
    """Return the cluster of each event after a few passes of Lloyd's algorithm, (N,); no cluster is empty."""
    for _ in range(_KMEANS_PASSES):
        gap, nearest = _squared_distance(x, centers).min(1)
        for k in (nearest.bincount(minlength=len(centers)) == 0).nonzero().flatten().tolist():
            farthest = int(gap.argmax())
            nearest[farthest], gap[farthest] = k, 0
        sums = torch.zeros_like(centers).index_add_(0, nearest, x)
        centers = sums / nearest.bincount(minlength=len(centers))[:, None]
    return nearest


def _squared_distance(x: Tensor, centers: Tensor) -> Tensor:
    """Return |x - c|^2, (N, K), without a tensor of differences."""
    return (x.square().sum(1, keepdim=True) - 2 * x @ centers.T + centers.square().sum(1)).clamp_min(0)


def _canonical(target: MixtureOfFactorAnalysers) -> MixtureOfFactorAnalysers:
    """Return the same density with W_k^T diag(psi)^-1 W_k diagonal and components by falling weight: a unique form."""
    order = target.weights.argsort(descending=True)
    factors = target.factors[order]
    _, vectors = torch.linalg.eigh((factors / target.noise) @ factors.mT)
    turned = vectors.mT.flip(1) @ factors
    return attrs.evolve(target, weights=target.weights[order], means=target.means[order], factors=turned)


def _check(
    images: Tensor, held_out: Tensor, components: int, factors: int, iterations: int, floor: float, ceiling: float
) -> None:
    if images.shape[1:] != held_out.shape[1:]:
        raise ValueError(f"held_out must have the images' shape {tuple(images.shape)}, got {tuple(held_out.shape)}")
    if not 1 <= components <= len(images):
        raise ValueError(f"components must be between 1 and the {len(images)} images, got {components}")
    if not 1 <= factors < prod(images.shape[1:]):
        raise ValueError(f"factors must be between 1 and {prod(images.shape[1:]) - 1}, got {factors}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if not 0 < floor <= ceiling:
        raise ValueError(f"the noise needs 0 < floor <= ceiling, got {floor} and {ceiling}")
    if len(held_out) < 2:
        raise ValueError(f"held_out needs at least 2 images for a standard error, got {len(held_out)}")
