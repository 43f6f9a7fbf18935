r"""Precision and recall on features (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity and diversity apart.

    precision   share of the samples inside the true events' manifold
    recall      share of the true events inside the samples' manifold

The manifold of a set is the union of the balls around its points that reach to their k-th nearest neighbour in the set.
Both depend on the number of events, which is the same on both sides here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better

from .feature_metric import TwoSetMetric
from .halves import GROUPS, balanced_halves, with_error

_ROWS = 1024


def radii(points: Tensor, neighbours: int) -> Tensor:
    """The distance (n,) of each of ``points`` (n, D) to its k-th nearest neighbour among the others."""
    found = [torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in torch.split(points, _ROWS)]
    return torch.cat(found)


def covered(points: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Whether each of ``points`` (n, D) is in the ball of any of ``centres`` (m, D) with radius ``reach`` (m,)."""
    return torch.cat([(torch.cdist(part, centres) <= reach).any(1) for part in torch.split(points, _ROWS)])


def shares(samples: Tensor, truth: Tensor, neighbours: int, choices: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Precision and recall of the events in each of ``choices``, masks (n,) for both sets; distances are found once."""
    rows = [torch.nonzero(choice).squeeze(1).to(samples.device) for choice in choices]
    own, true = (_radii_within(points, neighbours, rows) for points in (samples, truth))
    precise, recalled = (
        [0] * len(rows),
        [torch.zeros(len(chosen), dtype=torch.bool).to(chosen.device) for chosen in rows],
    )
    for start, part in zip(range(0, len(samples), _ROWS), torch.split(samples, _ROWS), strict=True):
        distances = torch.cdist(part, truth)
        for index, chosen in enumerate(rows):
            here = (chosen >= start) & (chosen < start + len(part))
            between = distances[chosen[here] - start][:, chosen]
            precise[index] += int((between <= true[index]).any(1).sum())
            recalled[index] |= (between <= own[index][here, None]).any(0)
    return [
        (inside / len(chosen), float(covering.double().mean()))
        for inside, covering, chosen in zip(precise, recalled, rows, strict=True)
    ]


def _radii_within(points: Tensor, neighbours: int, rows: Sequence[Tensor]) -> list[Tensor]:
    """:func:`radii` of each choice of rows by itself."""
    found: list[list[Tensor]] = [[] for _ in rows]
    for start, part in zip(range(0, len(points), _ROWS), torch.split(points, _ROWS), strict=True):
        distances = torch.cdist(part, points)
        for index, chosen in enumerate(rows):
            here = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            found[index].append(distances[here][:, chosen].kthvalue(neighbours + 1, dim=1).values)
    return [torch.cat(parts) for parts in found]


@attrs.frozen
class PrecisionRecall(TwoSetMetric):
    """Both shares, higher is better.

    The balls are as random as the events that lie in them, so the error of a share of independent events would be up
    to five times too small. The standard errors are those of balanced half-samples of both sets (``halves``), and no
    less than 1 / n: where all of n events agree, the next one may not.

    The published features are VGG16's second fully connected layer, ``features=vgg16``.
    """

    word: ClassVar[str] = "precision_recall"
    better: ClassVar[Better] = "higher"
    neighbours: int = param(3, "which neighbour the balls reach to", ge(1))

    @property
    def fewest(self) -> int:
        """So many that every half has points with such a neighbour."""
        return GROUPS * math.ceil((self.neighbours + 1) / (GROUPS // 2))

    @property
    def names(self) -> tuple[str, ...]:
        """``precision_<features>`` and ``recall_<features>``."""
        return f"precision_{self.features.name}", f"recall_{self.features.name}"

    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        """Both shares of features (n, D)."""
        halves = balanced_halves(len(samples))
        everything = torch.ones(len(samples), dtype=torch.bool)
        found = shares(samples, truth, self.neighbours, [everything, *halves])
        precision, recall = zip(*found, strict=True)
        estimates = (with_error(found[0], found[1:]) for found in (precision, recall))
        return tuple(attrs.evolve(each, stderr=max(each.stderr, 1 / len(samples))) for each in estimates)
