r"""Precision and recall on features (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity and diversity apart.

    precision   share of the samples inside the true events' manifold
    recall      share of the true events inside the samples' manifold

The manifold of a set is the union of the balls around its points that reach to their k-th nearest neighbour in the set.
Both depend on the number of events, which is the same on both sides here.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.evaluator import Better
from scoresde_core.target import Estimate

from .feature_metric import TwoSetMetric

_ROWS = 1024


def radii(points: Tensor, neighbours: int) -> Tensor:
    """The distance (n,) of each of ``points`` (n, D) to its k-th nearest neighbour among the others."""
    found = [torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in torch.split(points, _ROWS)]
    return torch.cat(found)


def covered(points: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Whether each of ``points`` (n, D) is in the ball of any of ``centres`` (m, D) with radius ``reach`` (m,)."""
    return torch.cat([(torch.cdist(part, centres) <= reach).any(1) for part in torch.split(points, _ROWS)])


@attrs.frozen
class PrecisionRecall(TwoSetMetric):
    """Both shares, higher is better; the standard errors are those of a share of independent events.

    The published features are VGG16's second fully connected layer, ``features=vgg16``.
    """

    word: ClassVar[str] = "precision_recall"
    better: ClassVar[Better] = "higher"

    neighbours: int = param(3, "which neighbour the balls reach to", ge(1))

    @property
    def fewest(self) -> int:
        """As many as have such a neighbour, and one more."""
        return self.neighbours + 2

    @property
    def names(self) -> tuple[str, ...]:
        """``precision_<features>`` and ``recall_<features>``."""
        return f"precision_{self.features.name}", f"recall_{self.features.name}"

    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        """Both shares of features (n, D)."""
        precision = covered(samples, truth, radii(truth, self.neighbours))
        recall = covered(truth, samples, radii(samples, self.neighbours))
        return _share(precision), _share(recall)


def _share(inside: Tensor) -> Estimate:
    share = float(inside.double().mean())
    return Estimate(share, math.sqrt(share * (1 - share) / len(inside)), len(inside) - 1)
