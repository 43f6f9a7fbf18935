"""Sliced Wasserstein distance (Rabin et al. 2012, doi:10.1007/978-3-642-24785-9_37; Bonneel et al. 2015).

    SW2^2(q, p) = mean over unit vectors u of W2^2(u.X, u.Y)

In one dimension W2 pairs the sorted values, so each direction costs a sort. For a shift d between otherwise equal
distributions in D dimensions it is |d| / sqrt(D).

The error of W2^2 is that of the mean of the Kantorovich potential phi, phi'(x) = 2 (x - T(x)) with T the monotone
map: the first variation of W2^2 (del Barrio & Loubes 2019, arXiv:1705.01299; sliced: Manole et al. 2022,
arXiv:1909.07862).
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.estimate import Estimate
from scoresde_core.noise import key
from scoresde_run.data.evidence import Reference
from scoresde_run.results.certainty import spread

from .comparison import balanced_halves, root_error
from .events import SetComparison


@attrs.frozen(eq=False)
class _Sorted:
    """Projections (directions, n) of n events in ascending order, and the event that each belongs to."""

    values: Tensor
    order: Tensor

    def part(self, chosen: Tensor) -> Tensor:
        """Return the projections of the events selected by the mask (m,) over the first m."""
        chosen = torch.nn.functional.pad(chosen, (0, self.order.shape[1] - len(chosen))).to(self.order.device)
        return self.values[chosen[self.order]].view(len(self.values), -1)

    def potential(self, other: _Sorted) -> Tensor:
        """Return the potential of W2^2 to ``other`` at each event (n,), averaged over directions, up to a constant.

        Between neighbours it grows by the integral of 2 (x - T(x)), by the trapezoid rule.
        """
        gap = self.values - other.values
        growth = self.values.diff(dim=1) * (gap[:, 1:] + gap[:, :-1])
        potential = torch.nn.functional.pad(growth.cumsum(1), (1, 0))
        return torch.empty_like(potential).scatter_(1, self.order, potential).mean(0)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Return W2^2 along each direction, of sorted projections (directions, n)."""
    return (x - y).square().mean(1)


@attrs.frozen
class SlicedWasserstein(SetComparison):
    """SW2 to an equally large set of true events, over random directions that depend on the seed only.

    The standard error covers the samples, the exact set and the directions: the scatter over seeds. The error of SW2^2
    comes from the potentials and from the directions, without the noise common to both; that of its root follows from
    the distance of half of the events (:func:`balanced_halves`), and is right where q and p are equal, too.
    """

    name: ClassVar[str] = "sliced_wasserstein"
    unit: ClassVar[str] = "data units"
    smallest: ClassVar[int] = 4

    projections: int = param(256, "number of random directions", attrs.validators.ge(2))

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        x = self._project(samples, reference)
        y = reference.once((self, "sorted"), lambda: self._project(reference.exact(0).double(), reference))
        squared, n = _squared(x.values, y.values), len(samples)
        halves = torch.stack([_squared(x.part(half), y.part(half)) for half in balanced_halves(n // 4 * 4, 4)])
        events = [Estimate(0, float(of.std()) / math.sqrt(n), n - 1) for of in (x.potential(y), y.potential(x))]
        # The potentials already include the noise of the events, which differs between directions.
        known = (halves[::2] - halves[1::2]).var(1).mean() / 8
        others = float((squared.var() - known).clamp_min(0) / self.projections)
        error, df = spread([*events, Estimate(0, math.sqrt(others), self.projections - 1)])
        distance = math.sqrt(squared.mean())
        return Estimate(distance, root_error(error, float(halves.mean())), df)

    def _project(self, x: Tensor, reference: Reference) -> _Sorted:
        """Return the sorted projections of ``x`` (n, *shape)."""
        x = x.flatten(1)
        directions = reference.once((self, "directions"), lambda: self._directions(reference.seed, x.shape[1]).to(x))
        projected: Tensor = directions @ x.T
        return _Sorted(*projected.sort(1))

    def _directions(self, seed: int, dimensions: int) -> Tensor:
        """Return random unit vectors (projections, dimensions), drawn on the CPU so that all devices use the same."""
        generator = torch.Generator().manual_seed(key(seed, "directions") % 2**31)
        normal = torch.randn(self.projections, dimensions, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(normal, dim=1)
