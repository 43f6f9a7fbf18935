"""Kernel distance on features (Binkowski et al. 2018, arXiv:1801.01401; KID with InceptionV3's).

    MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y),        k(x, y) = (x.y / D + 1)^3

This is the unbiased estimate (pairs i != j within a set), so unlike the Frechet distance its values can be compared
between sample sizes, and it needs far fewer samples. A cubic kernel compares the first three moments only.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better
from scoresde_run.data.evidence import Evidence

from .feature_metric import TwoSetMetric

FEWEST = 10
"""The fewest subsets whose scatter gives a usable error."""


def polynomial_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased MMD^2 of features ``x`` and ``y``, both (n, D) or (blocks, n, D), with the cubic kernel."""
    n, width = x.shape[-2], x.shape[-1]

    def total(a: Tensor, b: Tensor) -> Tensor:
        return ((a @ b.mT / width + 1) ** 3).sum((-2, -1))

    def diagonal(a: Tensor) -> Tensor:
        return ((a.square().sum(-1) / width + 1) ** 3).sum(-1)

    within = (total(x, x) - diagonal(x) + total(y, y) - diagonal(y)) / (n * (n - 1))
    return within - 2 * total(x, y) / n**2


def by_subsets(x: Tensor, y: Tensor, size: int) -> Estimate:
    """Return the mean over disjoint subsets of ``size`` rows of both (n, D), and its standard error over the subsets.

    With fewer than ten subsets of this size the subsets are made smaller: the estimate is unbiased at any size.
    """
    size = min(size, len(x) // FEWEST)
    count = len(x) // size
    blocks = [polynomial_mmd(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]) for i in range(count)]
    values = torch.stack(blocks)
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(count), count - 1)


@attrs.frozen
class KernelDistance(TwoSetMetric):
    """The mean over disjoint subsets, best at 0, with its standard error over them.

    The published estimate draws a hundred overlapping subsets and quotes their standard deviation, which is not the
    error of the mean; its expectation is the same. The reference has as many events as there are samples.
    """

    word: ClassVar[str] = "kernel"
    better: ClassVar[Better] = "zero"

    subset_size: int = param(1000, "events in a subset; fewer if the samples do not make ten subsets", ge(2))

    @property
    def fewest(self) -> int:
        return 2 * FEWEST

    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        return (by_subsets(samples, truth, self.subset_size),)

    def details(self, evidence: Evidence) -> dict[str, Any]:
        return self.protocol(evidence, subset_size=min(self.subset_size, evidence.count // FEWEST))
