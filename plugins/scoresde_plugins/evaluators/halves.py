"""The error of a statistic of two sets by balanced half-samples (McCarthy 1969, doi:10.2307/1402116).

The events are cut into G = 16 groups. The 15 rows of a Hadamard matrix that have both signs split the groups into
halves a and b, in which any two groups are on the same side about equally often:

    s^2 = mean over the rows of (f(a) - f(b))^2 / 4

f(a) and f(b) are independent, and each has twice the variance of f of all events where that falls as 1 / n. Unlike a
jackknife, this does not need a smooth statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_core.estimate import Estimate

GROUPS = 16
"""The number of groups of events, a power of 2."""


def balanced_halves(n: int, groups: int = GROUPS) -> list[Tensor]:
    """Return masks (n,) of half of n events, each followed by its complement; ``groups`` is a power of 2."""
    matrix = torch.ones(1, 1)
    while len(matrix) < groups:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    first = matrix[1:, torch.arange(n) * groups // n] > 0
    return [half for mask in first for half in (mask, ~mask)]


def with_error(value: float, of_halves: Sequence[float]) -> Estimate:
    """Return a statistic of all events with the error from its values on the halves."""
    squares = [(a - b) ** 2 for a, b in zip(of_halves[::2], of_halves[1::2], strict=True)]
    return Estimate(value, math.sqrt(sum(squares) / len(squares)) / 2, len(squares))


def root_error(error: float, half: float) -> float:
    """Return the error of a distance d to first order, from the error of d^2 and the mean d^2 of half of the events.

    f(a) - f(b) is (f^2(a) - f^2(b)) / (f(a) + f(b)), so the error of d^2 is divided by twice the distance of a half,
    and not by twice d. Far from the truth both are the same. Where d is noise alone, the distance of a half is larger
    by the square root of 2, which corrects for the quadratic part of d^2, which first-order errors count twice there.
    """
    return error / (2 * math.sqrt(half)) if error else 0.0
