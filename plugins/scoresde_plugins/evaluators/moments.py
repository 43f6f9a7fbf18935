"""Distance of the first two moments: the Wasserstein distance of the Gaussians that have them.

    W2^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

(Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X; the "Frechet distance" of FID, here in data space.) An affine
sampler on a Gaussian target stays Gaussian, so :func:`gaussian_w2` measures its bias without samples.

The trace is itself a squared distance, min over orthogonal U of |S1^1/2 - S2^1/2 U|^2 (Frobenius), attained at the
polar factor of S2^1/2 S1^1/2. This form keeps the digits of close covariances: their difference is taken before it is
squared.
"""

import math
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import Estimate
from scoresde_run import Reference
from .comparison import Comparison, balanced_halves

_ROUNDING = 1e-7
"""Relative size below which the root of an eigenvalue is rounding error: above the root of float64's 2e-16."""


def root_error(error: float, half: float) -> float:
    """Return the error of a distance d to first order, from the error of d^2 and the mean d^2 of half of the events.

    f(a) - f(b) is (f^2(a) - f^2(b)) / (f(a) + f(b)), so the error of d^2 is divided by twice the distance of a half,
    and not by twice d. Far from the truth both are the same. Where d is noise alone, the distance of a half is larger
    by the square root of 2, which corrects for the quadratic part of d^2, which first-order errors count twice there.
    """
    return error / (2 * math.sqrt(half)) if error else 0.0


def root(cov: Tensor) -> Tensor:
    """Return the symmetric root of a covariance (D, D), whose eigenvalues may be slightly negative by rounding."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    half: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return half


def gaussian_w2(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Return W2 of N(mean1, cov1) and N(mean2, cov2) in data units; means (D,), covariances (D, D), may be singular."""
    root1, root2 = root(cov1.double()), root(cov2.double())
    left, _, right = torch.linalg.svd(root2 @ root1)
    shapes = torch.linalg.matrix_norm(root1 - root2 @ (left @ right))
    return math.hypot(float((mean1.double() - mean2.double()).norm()), float(shapes))


@attrs.frozen
class Moments(Comparison):
    """Gaussian W2 between the samples' mean and covariance and the target's.

    Its square has the influence function psi(x) = 2 (m - mu).(x - m) + (x - m)' (I - T) (x - m), with (m, S) the
    samples' moments, mu the target's mean and T the optimal map from N(m, S) to N(mu, S'). The standard error of the
    root follows from the distance of half of the samples (:func:`balanced_halves`). At equal moments the value is its
    floor, which is noise and not zero.
    """

    name: ClassVar[str] = "moments"
    unit: ClassVar[str] = "data units"
    smallest: ClassVar[int] = 4

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        mean, cov = (part.to(samples) for part in reference.once("moments", reference.precise.moments))
        half = reference.once("root of the covariance", lambda: root(cov))
        x, n = samples.flatten(1), len(samples)
        offset, centred = x.mean(0) - mean, (x - x.mean(0)) / math.sqrt(n - 1)
        mapped = centred @ half
        product = mapped.T @ mapped
        if not bool(product.isfinite().all()):
            return Estimate(math.inf, math.nan)
        # With product = R S R, where R R = S', the map is T = R (R S R)^-1/2 R. The inverse root is taken on the range:
        # fewer samples than dimensions leave a null space, recognised by its rounding errors.
        values, vectors = torch.linalg.eigh(product)
        sizes = values.clamp_min(0).sqrt()
        sizes = torch.where(sizes > _ROUNDING * sizes[-1], sizes, 0.0)
        inverse = torch.where(sizes > 0, 1 / sizes, 0.0)
        lengths, along = centred.square().sum(1), (mapped @ vectors).square() @ inverse
        squared = offset.square().sum() + lengths.sum() + cov.trace() - 2 * sizes.sum()
        influence = 2 * math.sqrt(n - 1) * (centred @ offset) + (n - 1) * (lengths - along)
        distance = math.sqrt(max(float(squared), 0.0))
        halves = [_squared(x[chosen], mean, half) for chosen in balanced_halves(n, 4)]
        return Estimate(distance, root_error(float(influence.std()) / math.sqrt(n), sum(halves) / len(halves)), n - 1)


def _squared(x: Tensor, mean: Tensor, half: Tensor) -> float:
    """Return W2^2 of the moments of ``x`` (n, D) and those of N(mean, half^2)."""
    n, offset = len(x), x.mean(0) - mean
    mapped = (x - x.mean(0)) @ half / math.sqrt(n - 1)
    sizes = torch.linalg.eigvalsh(mapped.T @ mapped).clamp_min(0).sqrt()
    squares = offset.square().sum() + x.var(0).sum() + half.square().sum()
    return float(squares - 2 * sizes.sum())
