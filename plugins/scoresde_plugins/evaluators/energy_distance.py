r"""Energy distance (Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018), a metric on distributions.

    2 E|X - Y| - E|X - X'| - E|Y - Y'|,        X, X' ~ q,   Y, Y' ~ p,   |.| the Euclidean norm

It is 0 only where q = p, sees every moment, and has no tuning parameter; it is the maximum mean discrepancy with
the kernel -|x - y|, doubled (Sejdinovic et al. 2013, arXiv:1207.6076).
"""

from __future__ import annotations

from typing import ClassVar

import attrs
from torch import Tensor

from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better, Reference

from .events import SetComparison
from .pairs import sums, two_sample


@attrs.frozen
class EnergyDistance(SetComparison):
    """The unbiased estimate (pairs i != j within a set) against a set of the truth of the same size; best at 0.

    Unbiased means that equal distributions give values on both sides of 0, and that k stray samples at a distance R
    count k (k - 1): a single one, however far, cancels (nll_gap and moments see it).

    The standard error is the delete-one jackknife over both sets, less what that counts twice (see ``pairs``). With
    200 samples it is within 10 % of the scatter of repeated runs where q and p differ in the plane, and 18 to 20 % too
    large where they are equal; with 50, 10 to 26 %.
    """

    name: ClassVar[str] = "energy_distance"
    unit: ClassVar[str] = "data units"
    better: ClassVar[Better] = "zero"

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """The distance of ``samples`` (n, *shape) to the reference set."""
        exact = reference.exact(0).double().flatten(1)
        # Distances do not see a common shift; without it the products inside cdist keep their digits.
        origin = exact.mean(0)
        x, y = samples.flatten(1) - origin, exact - origin
        within = reference.once("energy within", lambda: sums(y, y, _as_it_is))
        return two_sample(x, y, _as_it_is, within)


def _as_it_is(distances: Tensor) -> Tensor:
    return distances
