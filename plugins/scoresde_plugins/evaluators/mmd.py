r"""Kernel maximum mean discrepancy in data space (Gretton et al. 2012, JMLR 13:723).

    MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y),        k(x, y) = mean over b of exp(-|x - y|^2 / (2 b^2 h^2))

with h the median distance between two true events: the customary choice, at which the kernel resolves neither noise
nor clusters alone. Bandwidths on both sides of it see more.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from attrs.validators import deep_iterable, gt, min_len
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better, Reference

from .events import SetComparison
from .pairs import sums, two_sample

_MEDIAN_OF = 1000
"""How many events the median distance is taken over."""


@attrs.frozen
class MMD(SetComparison):
    """The unbiased estimate of MMD^2 (pairs i != j within a set) with Gaussian kernels; best at 0.

    The standard error is that of the energy distance: the delete-one jackknife less what it counts twice.
    """

    name: ClassVar[str] = "mmd"
    better: ClassVar[Better] = "zero"

    bandwidths: tuple[float, ...] = param(
        (0.5, 1.0, 2.0),
        "bandwidths of the kernels that are averaged, in median distances",
        [min_len(1), deep_iterable(gt(0))],
        converter=tuple,
    )

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """MMD^2 of ``samples`` (n, *shape) and the reference set."""
        exact = reference.exact(0).double().flatten(1)
        origin = exact.mean(0)
        x, y = samples.flatten(1) - origin, exact - origin
        median = reference.once("median distance", lambda: float(torch.pdist(y[:_MEDIAN_OF]).median()))
        if not median:
            raise ValueError("the true events are all the same: a kernel cannot be scaled to them")

        def distance(distances: Tensor) -> Tensor:
            kernels = [(-0.5 * (distances / (bandwidth * median)) ** 2).exp() for bandwidth in self.bandwidths]
            return 1 - torch.stack(kernels).mean(0)

        within = reference.once((self, "within"), lambda: sums(y, y, distance))
        return two_sample(x, y, distance, within)
