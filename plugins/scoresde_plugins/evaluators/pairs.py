r"""Two-sample statistics of pairwise distances, unbiased, with a jackknife error.

    2 E d(X, Y) - E d(X, X') - E d(Y, Y'),        X, X' ~ q,   Y, Y' ~ p

with d = |x - y| is the energy distance, and with d = 1 - k(x, y) the squared maximum mean discrepancy of a kernel with
k(x, x) = 1 (Sejdinovic et al. 2013, arXiv:1207.6076).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_core.target import Estimate

_ROWS = 1024
"""Rows of the distance matrix that are held at once: memory grows with n, not with n^2."""

Distance = Callable[[Tensor], Tensor]
"""From Euclidean distances to d, which is 0 at 0."""


def two_sample(x: Tensor, y: Tensor, distance: Distance, y_to_y: Tensor) -> Estimate:
    """The unbiased estimate for sets ``x`` and ``y`` (n, D), and its error by the delete-one jackknife over both.

    ``y_to_y`` are the sums (n,) of the distances within ``y``, see :func:`sums`.
    """
    n = len(x)
    x_to_y, y_to_x = sums(x, y, distance)
    x_to_x = sums(x, x, distance)[0]
    value = 2 * x_to_y.sum() / n**2 - (x_to_x.sum() + y_to_y.sum()) / (n * (n - 1))
    return Estimate(float(value), math.sqrt(_jackknife(x_to_y, x_to_x) + _jackknife(y_to_x, y_to_y)), n - 1)


def sums(x: Tensor, y: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
    """The sums over rows and over columns of the matrix of distances."""
    rows, columns = [], torch.zeros_like(y[:, 0])
    for part in torch.split(x, _ROWS):
        distances = distance(torch.cdist(part, y))
        rows.append(distances.sum(1))
        columns += distances.sum(0)
    return torch.cat(rows), columns


def _jackknife(across: Tensor, within: Tensor) -> float:
    """The delete-one jackknife variance for the points of one set, from their distances' sums.

    Without point i the estimate changes by -(2 across_i / n - 2 within_i / (n - 2)) / (n - 1) and a constant.
    """
    n = len(across)
    return float((2 * across / n - 2 * within / (n - 2)).var()) / n
