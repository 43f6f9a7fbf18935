"""Known coefficients of an event in an orthonormal basis: the common part of inpainting, colorization and the like.

With c = Q x, Q orthonormal, and a set of known coefficients, those of a noisy state x_t = alpha x_0 + sigma eps have
the law N(alpha c, sigma^2 I) whatever the rest is. Imposing them replaces these coefficients and keeps the others
(Song et al. 2021, arXiv:2011.13456, Appendix I.2, Eq. 48-50).

The replacement is approximate: the unknown part is combined with known parts under fresh noise at every level, and
never follows the exact conditional score. It is exact if the parts are independent; docs/conditions.md measures the
bias, and ``smcdiff`` removes it.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from scoresde_core.noise import Draw
from scoresde_core.sde import Level
from scoresde_run.sampling.condition import Observation

from ..numerics.rotation import Basis, rotate


@attrs.frozen(eq=False)
class KnownCoefficients(Observation):
    """The coefficients where ``known`` (n or 1, *shape) is true have the values ``values`` (n, *shape)."""

    values: Tensor
    known: Tensor
    basis: Basis = ()

    def rows(self, start: int, count: int) -> KnownCoefficients:
        if start + count > len(self.values):
            raise ValueError(
                f"{len(self.values)} events were observed, too few for sample {start + count - 1}: "
                "observe one event per sample"
            )
        rows = slice(start, start + count)
        return attrs.evolve(
            self, values=self.values[rows], known=self.known if len(self.known) == 1 else self.known[rows]
        )

    def to(self, x: Tensor) -> KnownCoefficients:
        basis = tuple(matrix if matrix is None else matrix.to(x) for matrix in self.basis)
        return attrs.evolve(self, values=self.values.to(x), known=self.known.to(x.device), basis=basis)

    def impose(self, x: Tensor, level: Level, noise: Draw | None = None) -> Tensor:
        """Set the known coefficients to alpha c + sigma z, and keep the others."""
        known = self.values * level.alpha
        if noise is not None:
            known = known + level.sigma * noise()
        if not any(matrix is not None for matrix in self.basis):
            return torch.where(self.known, known, x)
        # Only the difference is rotated back, so the unknown coefficients are not rounded.
        change = torch.where(self.known, known - rotate(x, self.basis), 0.0)
        return x + rotate(change, self.basis, inverse=True)


def observe(x: Tensor, known: Tensor, basis: Basis = ()) -> KnownCoefficients:
    """Return the coefficients of ``x`` where ``known`` is true; the others are dropped."""
    exact = tuple(matrix if matrix is None else matrix.to(x.device) for matrix in basis)
    coefficients = rotate(x.double(), exact).to(x) if any(matrix is not None for matrix in basis) else x
    known = known.to(x.device)
    return KnownCoefficients(torch.where(known, coefficients, torch.zeros_like(coefficients)), known, exact)
