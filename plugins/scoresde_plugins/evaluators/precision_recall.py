"""Precision and recall on features (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity and diversity apart.

    precision   share of the samples inside the true events' manifold
    recall      share of the true events inside the samples' manifold

The manifold of a set is the union of balls around its points that reach to their k-th nearest neighbour in the set.
Both values depend on the number of events, which is the same on both sides here.
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


def shares(samples: Tensor, truth: Tensor, neighbours: int, choices: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Return precision and recall of the events in each of ``choices``, masks (n,) for both sets."""
    rows = [torch.nonzero(choice).squeeze(1).to(samples.device) for choice in choices]
    own, true = (radii(points, neighbours, rows) for points in (samples, truth))
    precise = [0] * len(rows)
    recalled = [torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device) for chosen in rows]
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


def radii(points: Tensor, neighbours: int, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return each point's distance to its k-th nearest neighbour (m,), within each choice of rows."""
    found: list[list[Tensor]] = [[] for _ in rows]
    for start, part in zip(range(0, len(points), _ROWS), torch.split(points, _ROWS), strict=True):
        distances = torch.cdist(part, points)
        for index, chosen in enumerate(rows):
            here = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            found[index].append(distances[here][:, chosen].kthvalue(neighbours + 1, dim=1).values)
    return [torch.cat(parts) for parts in found]


@attrs.frozen
class PrecisionRecall(TwoSetMetric):
    """Precision and recall, higher is better.

    The balls are as random as the events inside them, so the error of a share of independent events would be up to five
    times too small. The standard errors are those of balanced half-samples of both sets (``halves``), and at least 1 /
    n: where all n events agree, the next one may not.

    The published features are VGG16's second fully connected layer, ``features=vgg16``.
    """

    word: ClassVar[str] = "precision_recall"
    better: ClassVar[Better] = "higher"
    neighbours: int = param(3, "the neighbour k that the balls reach to", ge(1))

    @property
    def fewest(self) -> int:
        """The fewest events with which each half has k neighbours for every point."""
        return GROUPS * math.ceil((self.neighbours + 1) / (GROUPS // 2))

    @property
    def names(self) -> tuple[str, ...]:
        return f"precision_{self.features.name}", f"recall_{self.features.name}"

    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        halves = balanced_halves(len(samples))
        whole = torch.ones(len(samples), dtype=torch.bool)
        found = shares(samples, truth, self.neighbours, [whole, *halves])
        precision, recall = zip(*found, strict=True)
        estimates = (with_error(found[0], found[1:]) for found in (precision, recall))
        return tuple(attrs.evolve(each, stderr=max(each.stderr, 1 / len(samples))) for each in estimates)
