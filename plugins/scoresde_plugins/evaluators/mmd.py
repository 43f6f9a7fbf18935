r"""Kernel maximum mean discrepancy in data space (Gretton et al. 2012, JMLR 13:723).

    MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y),        k(x, y) = mean over b of exp(-|x - y|^2 / (2 b^2 h^2))

with h the median distance between two true events, the usual choice, and bandwidths b on both sides of it.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from attrs.validators import deep_iterable, gt, min_len
from torch import Tensor

from scoresde_core.components import param
from scoresde_run.data.evidence import Reference

from .pairs import Distance, PairComparison

_MEDIAN_OF = 1000
"""The number of events whose median distance is taken."""


@attrs.frozen
class MMD(PairComparison):
    """The unbiased estimate of MMD^2 (pairs i != j within a set) with Gaussian kernels; best at 0.

    The standard error is that of the energy distance: the delete-one jackknife, minus what it counts twice.
    """

    name: ClassVar[str] = "mmd"

    bandwidths: tuple[float, ...] = param(
        (0.5, 1.0, 2.0),
        "bandwidths of the kernels to average, in median distances",
        [min_len(1), deep_iterable(gt(0))],
        converter=tuple,
    )

    def distance(self, truth: Tensor, reference: Reference) -> Distance:
        """1 - k(x, y), as a function of |x - y|."""
        median = reference.once("median distance", lambda: float(torch.pdist(truth[:_MEDIAN_OF]).median()))
        if not median:
            raise ValueError("the true events are all equal: their median distance of 0 sets no bandwidth")

        def distance(distances: Tensor) -> Tensor:
            kernels = [(-0.5 * (distances / (bandwidth * median)) ** 2).exp() for bandwidth in self.bandwidths]
            return 1 - torch.stack(kernels).mean(0)

        return distance
