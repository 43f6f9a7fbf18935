r"""How to choose noise scales and Langevin steps (Song & Ermon 2020, arXiv:2006.09011).

Technique 1   sigma_max: the largest distance between two data points, so that at the first scale every data point can
              be reached from every other.
Technique 2   sigma_i a geometric progression of ratio gamma, with gamma from

                  Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = 1/2:

              in D dimensions noise of scale sigma lies on a shell of radius about sigma sqrt(D) and width
              sigma / sqrt(2), and half of each shell is within three widths of the next. The published counts, 232,
              500 and 1086 scales for D = 3072, 12288 and 49152, have an overlap of 0.567 instead of 1/2.
Technique 4   step size eps (sigma_i / sigma_min)^2 with T steps per scale: T from the budget, then eps such that the
              variance at the end of a scale is nearest to that of the scale,

                  s_T^2 / sigma_i^2 = (1 - a)^(2T) (gamma^2 - b) + b,   a = eps / sigma_min^2,   b = 2a / (1 - (1-a)^2).

Technique 5   an exponential moving average of the weights, of rate 0.999.

Technique 3 is a network that divides its output by sigma instead of taking a label: ``ncsnv2``.
"""

import math
from statistics import NormalDist

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Langevin:
    """Parameters of annealed Langevin dynamics: ``steps`` per scale and ``step_size`` at the smallest scale.

    ``variance_ratio`` is the resulting s_T^2 / sigma_i^2, 1 at best; ``snr`` is the parameter of the corrector ``ald``
    for the same step size, eps = 2 (snr sigma_min)^2.
    """

    steps: int
    step_size: float
    snr: float
    variance_ratio: float


def largest_distance(x: Tensor, chunk: int = 2048) -> float:
    """Return the largest Euclidean distance between two events of ``x`` (N, ...), N >= 2; memory chunk^2."""
    if len(x) < 2:
        raise ValueError(f"a largest distance needs two events or more, got {len(x)}")
    # Centred data have the same distances and lose less to rounding in |a|^2 + |b|^2 - 2ab.
    flat = x.flatten(1).float()
    flat = flat - flat.mean(0)
    chunks, largest = flat.split(chunk), flat.new_zeros(())  # type: ignore[no-untyped-call]
    norms = [part.square().sum(1) for part in chunks]
    for i, rows in enumerate(chunks):
        for j in range(i, len(chunks)):
            squared = torch.addmm(norms[i][:, None] + norms[j], rows, chunks[j].T, alpha=-2)
            largest = torch.maximum(largest, squared.max())
    return float(largest.clamp_min(0).sqrt())


def shell_overlap(gamma: float, dimensions: int) -> float:
    """Return the share of one shell of noise that lies within three widths of the next, gamma times as large."""
    shift, width = math.sqrt(2 * dimensions) * (gamma - 1), 3 * gamma
    return NormalDist().cdf(shift + width) - NormalDist().cdf(shift - width)


def scale_ratio(dimensions: int, overlap: float = 0.5) -> float:
    """Return gamma of technique 2 for events of ``dimensions`` numbers."""
    if not 0 < overlap < 0.99:
        raise ValueError(f"the overlap of two scales must lie between 0 and 0.99, got {overlap}")
    # The distance between shells grows as sqrt(2 D) gamma, three widths as 3 gamma: for 2 D <= 9 they always overlap.
    if 2 * dimensions <= 9:
        why = f"technique 2 needs 5 dimensions or more, got {dimensions}, where shells overlap at any ratio"
        raise ValueError(f"{why}: choose the number of scales yourself")
    low, high = 1.0, 2.0
    while shell_overlap(high, dimensions) > overlap:
        high *= 2
    for _ in range(200):  # the overlap falls as the ratio grows
        middle = 0.5 * (low + high)
        low, high = (middle, high) if shell_overlap(middle, dimensions) > overlap else (low, middle)
    return 0.5 * (low + high)


def number_of_scales(dimensions: int, sigma_min: float, sigma_max: float, overlap: float = 0.5) -> int:
    """Return the least number of geometric scales, both ends included, whose ratio is at most that of technique 2."""
    _check_scales(sigma_min, sigma_max)
    ratio = scale_ratio(dimensions, overlap)
    return 1 + math.ceil(math.log(sigma_max / sigma_min) / math.log(ratio))


def geometric_ratio(sigma_min: float, sigma_max: float, scales: int) -> float:
    """Return the ratio of ``scales`` geometric scales, both ends included."""
    _check_scales(sigma_min, sigma_max)
    if scales < 2:
        raise ValueError(f"the number of noise scales must be at least 2, got {scales}")
    return math.exp(math.log(sigma_max / sigma_min) / (scales - 1))


def variance_ratio(a: float, steps: int, gamma: float) -> float:
    """Return s_T^2 / sigma_i^2 after ``steps`` steps of relative size ``a``, from a scale gamma times as large."""
    b = 1 / (1 - a / 2)
    return float((1 - a) ** (2 * steps) * (gamma**2 - b) + b)


def langevin_steps(gamma: float, sigma_min: float, steps: int) -> Langevin:
    """Choose the step size for ``steps`` per scale (technique 4): the variance ratio is above 1 and has one minimum."""
    if steps < 1:
        raise ValueError(f"the number of Langevin steps a scale must be at least 1, got {steps}")
    if gamma <= 1:
        raise ValueError(f"the ratio of scales must be above 1, got {gamma}")
    low, high, golden = math.log(1e-9), 0.0, (math.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if variance_ratio(math.exp(left), steps, gamma) < variance_ratio(math.exp(right), steps, gamma):
            high = right
        else:
            low = left
    a = math.exp(0.5 * (low + high))
    return Langevin(steps, a * sigma_min**2, math.sqrt(a / 2), variance_ratio(a, steps, gamma))


def _check_scales(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be positive and below sigma_max = {sigma_max:.4g}, got {sigma_min:.4g}")
