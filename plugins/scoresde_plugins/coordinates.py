r"""Coordinates in which a fast sampler is written once for every SDE, and the past of multistep methods.

With ``y = x / alpha`` and ``s = sigma / alpha`` the probability flow of any Gaussian path is that of a VE process
(Karras et al. 2022, arXiv:2206.00364, Eq. 4; Zhang & Chen 2022, arXiv:2204.13902):

    dy/ds = eps(x),        dy/dlambda = D(x) - y,        lambda = -log s = log(alpha / sigma)

with eps = E[eps | x] and D = E[x_0 | x]. Methods that extrapolate eps as a polynomial in s (or t) differ from those
that extrapolate D as a polynomial in lambda; both agree with DDIM in first order. From ``now`` to ``next`` with
h = lambda' - lambda > 0, constant D or eps gives that first-order step, exact where D does not change:

    x' = (sigma'/sigma) x + alpha' (1 - e^{-h}) D = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) eps

The last step leads to clean data, where lambda is infinite and e^{-h} = 0: x' = D, the denoised state. Polynomials in
lambda have no limit there, so every method takes this first-order step, which is exact in the limit sigma -> 0.

A step's numbers are floats, or tensors with one value per row or per entry; the methods are written once for both.
Where they are matrices, s is alpha^-1 sigma, and factors stand in the order of the matrices.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor
from scoresde_core import Level, Past, Scalar, Step
from scoresde_core.shapes import NUMBER, combine, shift, solve

ENTRIES = ("scalar", "diagonal")  # the forms of methods whose numbers are one for all entries, or one an entry
LINEAR = (*ENTRIES, "blocks")  # the forms of methods that keep the order of matrices as well

FORMS = (*LINEAR, "nonlinear")

NODES, SHARES = (0.5 * torch.from_numpy(part) for part in (leggauss(24)[0] + 1, leggauss(24)[1]))
"""Gauss-Legendre quadrature from 0 to 1."""


def noise_ratio(level: Level) -> Scalar:
    """s = alpha^-1 sigma; tensors in float64, because weights are small differences of such values."""
    return solve(_double(level.alpha), _double(level.sigma))  # type: ignore[no-any-return]


def log_snr(level: Level) -> Scalar:
    """lambda = log(alpha / sigma) of a level with noise; tensors in float64."""
    snr = _double(level.alpha) / _double(level.sigma)
    return snr.log() if isinstance(snr, Tensor) else math.log(snr)


def expm1(value: Scalar) -> Scalar:
    """e^v - 1."""
    return value.expm1() if isinstance(value, Tensor) else math.expm1(value)


def reaches_data(step: Step) -> bool:
    """Whether the step leads to clean data, in all rows if they have levels of their own."""
    sigma, t = step.next.sigma, step.next.t
    if isinstance(sigma, Tensor):
        return bool((sigma == 0).all()) if isinstance(t, Tensor) else t == 0  # of one time the device is not asked
    return bool(sigma == 0)


def settle(step: Step, value: Any, instead: Any) -> Any:
    """Return ``value``, but ``instead`` in rows that reach clean data while others do not."""
    sigma = step.next.sigma
    return torch.where(sigma == 0, instead, value) if isinstance(sigma, Tensor) else value


def level_ahead(step: Step) -> Level:
    """Return ``step.next``, but ``step.now`` in rows that reach clean data, where no model is evaluated."""
    now, ahead = step.now, step.next
    if not isinstance(ahead.sigma, Tensor) or not isinstance(ahead.t, Tensor):
        return ahead
    return Level(*(settle(step, getattr(ahead, name), getattr(now, name)) for name in ("t", "alpha", "sigma")))


def power_weights(nodes: Sequence[Scalar], moments: Sequence[Scalar]) -> list[Scalar]:
    """Return weights w with sum_k w_k nodes_k^q = moments_q for q = 0, 1, ... (Bjorck and Pereyra 1970)."""
    weights, last = list(moments), len(nodes) - 1
    for k in range(last):
        for i in range(last, k, -1):
            weights[i] = weights[i] - nodes[k] * weights[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            weights[i] = weights[i] / (nodes[i] - nodes[i - k - 1])
        for i in range(k, last):
            weights[i] = weights[i] - weights[i + 1]
    return weights


def blend(a: Scalar, x: Tensor, b: Scalar, y: Tensor, *more: tuple[Scalar, Tensor]) -> Tensor:
    """Return a x + b y + further terms (coefficient, tensor), in one allocation."""
    out = combine(a, x, b, y)
    for c, z in more:
        if isinstance(c, Tensor):
            out = out.addcmul_(z, c.to(out.dtype))
        else:
            out = out.add_(z, alpha=c) if isinstance(c, NUMBER) else out.add_(c * z)
    return out


def denoised_step(x: Tensor, step: Step, denoised: Tensor, *more: tuple[Scalar, Tensor]) -> Tensor:
    """Return (sigma'/sigma) x + alpha' (1 - e^{-h}) D + alpha' sum c T for pairs (c, T), without these to the data."""
    now, ahead = step.now, step.next
    keep = ahead.sigma / now.sigma
    terms = ((ahead.alpha * settle(step, c, 0.0), tensor) for c, tensor in more)
    return blend(keep, x, ahead.alpha - keep * now.alpha, denoised, *terms)


def noise_step(x: Tensor, step: Step, *terms: tuple[Scalar, Tensor]) -> Tensor:
    """Return (alpha'/alpha) x + alpha' sum_k c_k eps_k for pairs (c_k, eps_k) whose c_k add up to s' - s.

    Rows that reach clean data use only the first eps.
    """
    (c, first), *more = terms
    rest = ((settle(step, c, 0.0), eps) for c, eps in more)
    return noise_step_to(x, step, step.next, (settle(step, c, -noise_ratio(step.now)), first), *rest)


def noise_step_to(x: Tensor, step: Step, ahead: Level, *terms: tuple[Scalar, Tensor]) -> Tensor:
    """Return the step of :func:`noise_step` to a level ``ahead`` with noise."""
    (first, noise), *more = ((ahead.alpha * c, tensor) for c, tensor in terms)
    return blend(ahead.alpha / step.now.alpha, x, first, noise, *more)


def raise_noise(x: Tensor, now: Level, ahead: Level, z: Tensor, scale: float = 1.0) -> Tensor:
    """Return the state at a level ``ahead`` with more noise: alpha' (x / alpha + scale sqrt(s'^2 - s^2) z)."""
    # Its share of the variance, 1 where there is no signal; of a rounding error the root would give noise of 1e-8.
    fresh = 1 - (noise_ratio(now) * _double(ahead.alpha) / _double(ahead.sigma)) ** 2
    added = ahead.sigma * (fresh * (fresh > 1e-12)) ** 0.5
    return shift(x * (ahead.alpha / now.alpha), scale * added, z)


def remember(past: Past, step: Step, value: Tensor, length: int) -> Past:
    """Prepend ``value`` at ``step.now`` to ``past``, and keep ``length`` entries (level, tensor), newest first.

    Entries are model outputs at visited levels, so they stay valid when a corrector moves the state between two steps:
    the extrapolation then contains its move, and stays consistent, as its weights sum to those of the first order.
    """
    return ((step.now, value), *past)[:length]


def usable_order(step: Step, past: int, wanted: int, *, lower_final: bool = False) -> int:
    """Return the order of this step: at most ``wanted`` and the length of the past, and 1 in a step to the data.

    With ``lower_final`` it is also at most the number of steps left, this one included: the last step is of order 1.
    """
    order = min(wanted, past)
    if lower_final:
        order = min(order, step.count - step.index)
    return 1 if order > 1 and reaches_data(step) else order


def _double(value: Scalar) -> Scalar:
    return value.double() if isinstance(value, Tensor) else value
