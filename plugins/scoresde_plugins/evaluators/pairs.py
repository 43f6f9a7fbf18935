r"""Two-sample statistics of pairwise distances, unbiased, with their errors.

    2 E d(X, Y) - E d(X, X') - E d(Y, Y'),        X, X' ~ q,   Y, Y' ~ p

with d = |x - y| is the energy distance, and with d = 1 - k(x, y) the squared maximum mean discrepancy of a kernel with
k(x, x) = 1 (Sejdinovic et al. 2013, arXiv:1207.6076).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from scoresde_core.estimate import Estimate

_ROWS = 1024
"""Rows of the distance matrix that are held at once: memory grows with n, not with n^2."""

Distance = Callable[[Tensor], Tensor]
"""From Euclidean distances to d, which is 0 at 0."""


@attrs.frozen
class Sums:
    """Of the distances (n, m) between two sets: over rows (n,), over columns (m,), and of their squares."""

    rows: Tensor
    columns: Tensor
    squares: float


def sums(x: Tensor, y: Tensor, distance: Distance) -> Sums:
    """The sums of the distances of ``x`` (n, D) and ``y`` (m, D)."""
    rows, columns, squares = [], torch.zeros_like(y[:, 0]), 0.0
    for part in torch.split(x, _ROWS):
        distances = distance(torch.cdist(part, y))
        rows.append(distances.sum(1))
        columns += distances.sum(0)
        squares += float(distances.square().sum())
    return Sums(torch.cat(rows), columns, squares)


def two_sample(x: Tensor, y: Tensor, distance: Distance, y_to_y: Sums) -> Estimate:
    """The unbiased estimate for sets ``x`` and ``y`` (n, D), and its error; ``y_to_y`` are the sums within ``y``.

    The delete-one jackknife over both sets counts the part of the estimate that is linear in the points once and the
    quadratic one, which is all there is where both sets have one distribution, twice. The variance of the quadratic
    part is known from the doubly centred distances (of one set: Szekely & Rizzo 2014, arXiv:1310.2926),

        V2 = 4 E d(X, Y)^2 / n^2 + 2 (E d(X, X')^2 + E d(Y, Y')^2) / (n (n - 1)),

    and is subtracted once. What is left is a noisy number, and is taken to be V2 / 4 at least.
    """
    n = len(x)
    across, x_to_x = sums(x, y, distance), sums(x, x, distance)
    value = 2 * across.rows.sum() / n**2 - (x_to_x.rows.sum() + y_to_y.rows.sum()) / (n * (n - 1))
    linear_and_twice = _jackknife(across.rows, x_to_x.rows) + _jackknife(across.columns, y_to_y.rows)
    within = _centred_within(x_to_x) + _centred_within(y_to_y)
    quadratic = 4 * _centred_across(across) / n**2 + 2 * within / (n * (n - 1))
    return Estimate(float(value), math.sqrt(max(linear_and_twice - quadratic, quadratic / 4)), n - 1)


def _jackknife(across: Tensor, within: Tensor) -> float:
    """The delete-one jackknife variance for the points of one set, from their distances' sums.

    Without point i the estimate changes by -(2 across_i / n - 2 within_i / (n - 2)) / (n - 1) and a constant.
    """
    n = len(across)
    return float((2 * across / n - 2 * within / (n - 2)).var()) / n


def _centred_across(found: Sums) -> float:
    """The mean square of the distances less their row and column means, as (n - 1)^2 numbers are free."""
    n, m = len(found.rows), len(found.columns)
    off = found.rows.square().sum() / m + found.columns.square().sum() / n - found.rows.sum() ** 2 / (n * m)
    return max(0.0, found.squares - float(off)) / ((n - 1) * (m - 1))


def _centred_within(found: Sums) -> float:
    """The same within one set, where the distances of points to themselves do not count."""
    n = len(found.rows)
    off = 2 * found.rows.square().sum() / (n - 2) - found.rows.sum() ** 2 / ((n - 1) * (n - 2))
    return max(0.0, found.squares - float(off)) / (n * max(n - 3, 1))
