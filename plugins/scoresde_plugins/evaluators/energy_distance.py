r"""Energy distance (Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018), a metric on distributions.

    2 E|X - Y| - E|X - X'| - E|Y - Y'|,        X, X' ~ q,   Y, Y' ~ p,   |.| the Euclidean norm

It is 0 only where q = p, sees every moment, and has no tuning parameter. It is the maximum mean discrepancy with the
kernel -|x - y|, doubled (Sejdinovic et al. 2013, arXiv:1207.6076).
"""

from __future__ import annotations

from typing import ClassVar

import attrs
from torch import Tensor

from scoresde_run.data.evidence import Reference

from .pairs import Distance, PairComparison


@attrs.frozen
class EnergyDistance(PairComparison):
    """The unbiased estimate (pairs i != j within a set) against an equally large set of true events; best at 0.

    Unbiased means that equal distributions give values on both sides of 0, and that k stray samples at a distance R
    count k (k - 1): a single one, however far, cancels (nll_gap and moments see it).

    The standard error is the delete-one jackknife over both sets, minus what it counts twice (see ``pairs``). With
    200 samples it is within 10 % of the scatter of repeated runs where q and p differ in the plane, and 18 to 20 % too
    large where they are equal; with 50 samples, 10 to 26 %.
    """

    name: ClassVar[str] = "energy_distance"
    unit: ClassVar[str] = "data units"

    def distance(self, truth: Tensor, reference: Reference) -> Distance:
        return lambda distances: distances
