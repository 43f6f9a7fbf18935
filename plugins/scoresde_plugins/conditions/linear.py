"""Linear measurements y = A x without noise, for a separable A: averaging (super-resolution) and blur (deblurring).

With A = A_h (x) A_w and the singular value decompositions A_i = U_i S_i V_i^T, the measurement determines the
coefficients of x in the basis V_h (x) V_w where s_h s_w > 0, as in Kawar et al. 2022 (arXiv:2201.11793). A blur
has singular values near 0, by which no measurement with noise or rounding can be divided: coefficients below
``smallest`` times the largest count as unknown and are generated.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from scoresde_core.components import param
from scoresde_run.sampling.condition import Condition

from .known import KnownCoefficients, observe


@attrs.frozen
class LinearMeasurement(Condition):
    """Means of blocks, or a Gaussian blur with repeated edges, of each channel.

    The known part is the measurement, ``measure(x)``, which samples match to rounding (for a blur, to ``smallest``).
    """

    operator: Literal["average", "blur"] = param("average", "means of blocks of factor x factor, or a Gaussian blur")
    factor: int = param(2, "side of the blocks, a divisor of the image's sides", ge(2))
    width: float = param(1.0, "standard deviation of the blur in pixels", gt(0))
    smallest: float = param(
        0.1, "singular values of a blur below this share of the largest are unknown", and_(gt(0), lt(1))
    )

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Refuse events that are not images, or that the blocks do not tile."""
        if len(shape) != 3:
            return f"linear measures images (channels, height, width), not events of shape {shape}"
        if self.operator == "average" and (shape[1] % self.factor or shape[2] % self.factor):
            return f"blocks of {self.factor} pixels do not tile images of {shape[1]} x {shape[2]}: choose a divisor"
        return None

    def observe(self, x: Tensor) -> KnownCoefficients:
        """Return the coefficients of ``x`` (n, C, H, W) that its measurement determines."""
        reason = self.skip(tuple(x.shape[1:]))
        if reason:
            raise ValueError(reason)
        bases, values = zip(*(self._decompose(size) for size in x.shape[2:]), strict=True)
        sizes = torch.outer(*values)
        known = (sizes > self.smallest * sizes.max()).expand(1, x.shape[1], -1, -1)
        return observe(x, known, (None, *bases))

    def measure(self, x: Tensor) -> Tensor:
        """A x: (n, C, H / factor, W / factor) for means, (n, C, H, W) for a blur."""
        down, across = (self.matrix(size).to(x) for size in x.shape[2:])
        return down @ x @ across.T

    def matrix(self, size: int) -> Tensor:
        """Return A along an axis of ``size``, float64: (size / factor, size), or (size, size)."""
        if self.operator == "average":
            blocks = torch.eye(size // self.factor, dtype=torch.float64)
            return blocks.repeat_interleave(self.factor, 1) / self.factor
        reach = max(1, round(4 * self.width))
        offsets = torch.arange(-reach, reach + 1)
        weights = (-0.5 * (offsets / self.width).double().square()).exp()
        matrix = torch.zeros(size, size, dtype=torch.float64)
        rows = torch.arange(size).unsqueeze(1).expand(-1, len(offsets))
        columns = (rows + offsets).clamp(0, size - 1)
        matrix.index_put_((rows, columns), (weights / weights.sum()).expand_as(rows), accumulate=True)
        return matrix

    def _decompose(self, size: int) -> tuple[Tensor, Tensor]:
        """Return V^T (size, size) and the singular values, padded with zeros, (size,)."""
        _, values, basis = torch.linalg.svd(self.matrix(size))
        return basis, torch.nn.functional.pad(values, (0, size - len(values)))
