"""Unbiased two-sample statistics of pairwise distances, with their errors.

    2 E d(X, Y) - E d(X, X') - E d(Y, Y'),        X, X' ~ q,   Y, Y' ~ p

With d = |x - y| this is the energy distance, and with d = 1 - k(x, y) the squared maximum mean discrepancy of a kernel
with k(x, x) = 1 (Sejdinovic et al. 2013, arXiv:1207.6076).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better
from scoresde_run.data.evidence import Reference

from .events import SetComparison

_ROWS = 1024
"""Rows of the distance matrix held at once: memory grows with n, not with n^2."""

Distance = Callable[[Tensor], Tensor]
"""A function from Euclidean distances to d, which is 0 at 0."""


@attrs.frozen
class Sums:
    """Sums of the distances (n, m) between two sets: over rows (n,), over columns (m,), and of the squares."""

    rows: Tensor
    columns: Tensor
    squares: float


def sums(x: Tensor, y: Tensor, distance: Distance) -> Sums:
    """Return the sums of the distances of ``x`` (n, D) and ``y`` (m, D)."""
    rows, columns, squares = [], torch.zeros_like(y[:, 0]), 0.0
    for part in torch.split(x, _ROWS):
        distances = distance(torch.cdist(part, y))
        rows.append(distances.sum(1))
        columns += distances.sum(0)
        squares += float(distances.square().sum())
    return Sums(torch.cat(rows), columns, squares)


def two_sample(x: Tensor, y: Tensor, distance: Distance, y_to_y: Sums) -> Estimate:
    """Return the unbiased estimate for ``x`` and ``y`` (n, D), with its error; ``y_to_y`` are the sums within ``y``.

    The delete-one jackknife over both sets counts the part of the estimate that is linear in the points once, and the
    quadratic part, which is all there is where both sets have one distribution, twice. The variance of the quadratic
    part is known from the doubly centred distances (of one set: Szekely & Rizzo 2014, arXiv:1310.2926),

        V2 = 4 E d(X, Y)^2 / n^2 + 2 (E d(X, X')^2 + E d(Y, Y')^2) / (n (n - 1)),

    and is subtracted once. The remainder is noisy, and is taken to be at least V2 / 4.
    """
    n = len(x)
    across, x_to_x = sums(x, y, distance), sums(x, x, distance)
    value = 2 * across.rows.sum() / n**2 - (x_to_x.rows.sum() + y_to_y.rows.sum()) / (n * (n - 1))
    linear_and_twice = _jackknife(across.rows, x_to_x.rows) + _jackknife(across.columns, y_to_y.rows)
    within = _centred_within(x_to_x) + _centred_within(y_to_y)
    quadratic = 4 * _centred_across(across) / n**2 + 2 * within / (n * (n - 1))
    return Estimate(float(value), math.sqrt(max(linear_and_twice - quadratic, quadratic / 4)), n - 1)


def _jackknife(across: Tensor, within: Tensor) -> float:
    """Return the delete-one jackknife variance for the points of one set, from the sums of their distances.

    Without point i the estimate changes by -(2 across_i / n - 2 within_i / (n - 2)) / (n - 1) and a constant.
    """
    n = len(across)
    return float((2 * across / n - 2 * within / (n - 2)).var()) / n


def _centred_across(found: Sums) -> float:
    """Return the mean square of the doubly centred distances between two sets, with (n - 1)^2 degrees of freedom."""
    n, m = len(found.rows), len(found.columns)
    off = found.rows.square().sum() / m + found.columns.square().sum() / n - found.rows.sum() ** 2 / (n * m)
    return max(0.0, found.squares - float(off)) / ((n - 1) * (m - 1))


def _centred_within(found: Sums) -> float:
    """Return the same within one set, without the distances of points to themselves."""
    n = len(found.rows)
    off = 2 * found.rows.square().sum() / (n - 2) - found.rows.sum() ** 2 / ((n - 1) * (n - 2))
    return max(0.0, found.squares - float(off)) / (n * max(n - 3, 1))


@attrs.frozen
class PairComparison(SetComparison):
    """Base class of the unbiased statistics: define ``name`` and ``distance``; best at 0."""

    better: ClassVar[Better] = "zero"

    @abstractmethod
    def distance(self, truth: Tensor, reference: Reference) -> Distance:
        """Return d for the true events ``truth`` (n, D)."""

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        exact = reference.exact(0).double().flatten(1)
        # Distances do not depend on a common shift; without it the products inside cdist keep their digits.
        origin = exact.mean(0)
        x, y = samples.flatten(1) - origin, exact - origin
        distance = self.distance(y, reference)
        return two_sample(x, y, distance, reference.once((self, "within"), lambda: sums(y, y, distance)))
