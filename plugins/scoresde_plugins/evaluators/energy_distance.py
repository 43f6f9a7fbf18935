r"""Energy distance (Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018), a metric on distributions.

    2 E|X - Y| - E|X - X'| - E|Y - Y'|,        X, X' ~ q,   Y, Y' ~ p,   |.| the Euclidean norm

It is 0 only where q = p, sees every moment, and has no tuning parameter; it is the maximum mean discrepancy with
the kernel -|x - y|, doubled (Sejdinovic et al. 2013, arXiv:1207.6076).
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.evaluator import Better, Comparison, Reference
from scoresde_core.target import Estimate

_ROWS = 1024
"""Rows of the distance matrix that are held at once: memory grows with n, not with n^2."""


@attrs.frozen
class EnergyDistance(Comparison):
    """The unbiased estimate (pairs i != j within a set) against an exact set of the same size; best at 0.

    Unbiased means that equal distributions give values on both sides of 0, and that k stray samples at a distance R
    count k (k - 1): a single one, however far, cancels (nll_gap and moments see it).

    The standard error is the delete-one jackknife over both sets, from the row sums of the distances: right where q
    and p differ clearly. Where they are equal the linear part of the statistic vanishes, and the jackknife, which
    counts the quadratic part twice, gives the square root of 2 too much.
    """

    name: ClassVar[str] = "energy_distance"
    unit: ClassVar[str] = "data units"
    better: ClassVar[Better] = "zero"

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """The distance of ``samples`` (n, *shape) to the reference set."""
        n, exact = len(samples), reference.exact(0).double().flatten(1)
        # Distances do not see a common shift; without it the products inside cdist keep their digits.
        origin = exact.mean(0)
        x, y = samples.flatten(1) - origin, exact - origin
        x_to_y, y_to_x = _sums(x, y)
        x_to_x, y_to_y = _sums(x, x)[0], reference.once("energy within", lambda: _sums(y, y)[0])
        value = 2 * x_to_y.sum() / n**2 - (x_to_x.sum() + y_to_y.sum()) / (n * (n - 1))
        variance = _jackknife(x_to_y, x_to_x) + _jackknife(y_to_x, y_to_y)
        return Estimate(float(value), math.sqrt(variance))


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over rows and over columns of the matrix of distances |x_i - y_j|."""
    rows, columns = [], torch.zeros_like(y[:, 0])
    for part in torch.split(x, _ROWS):
        distances = torch.cdist(part, y)
        rows.append(distances.sum(1))
        columns += distances.sum(0)
    return torch.cat(rows), columns


def _jackknife(across: Tensor, within: Tensor) -> float:
    """The delete-one jackknife variance for the points of one set, from their distances' sums.

    Without point i the estimate changes by -(2 across_i / n - 2 within_i / (n - 2)) / (n - 1) and a constant.
    """
    n = len(across)
    return float((2 * across / n - 2 * within / (n - 2)).var()) / n
