"""Rounded coefficients of blocks, as a picture is stored in JPEG (ITU-T T.81, Annex A); not linear."""

import math
from collections.abc import Sequence

import attrs
import torch
from attrs.validators import ge, gt
from torch import Tensor
from scoresde_core import param
from scoresde_core.frame import rotate
from scoresde_run import Operator
from scoresde_run.sampling.operator import Shape


@attrs.frozen
class JPEGOperator(Operator):
    """The event whose coefficients in the cosine basis of each block are rounded to multiples of step (1 + k + l).

    k and l are the frequencies along the sides, so fine detail is rounded more, as by the tables of JPEG. Its gradient
    is that of the identity, as rounding has none.
    """

    linear = False
    step: float = param(0.1, "distance of two values of the mean coefficient, in the model's units", gt(0))
    block: int = param(4, "side of the blocks, a divisor of the event's sides", ge(2))

    def measured(self, shape: Shape) -> Shape:
        if len(shape) < 2 or any(size % self.block for size in shape[1:]):
            what = f"channels, and sides that blocks of {self.block} tile"
            raise ValueError(f"jpeg needs events with {what}, not of shape {list(shape)}: choose a divisor")
        return shape

    def tables(self, shape: Shape) -> Sequence[Tensor | None]:
        """The cosine basis of the blocks along each axis, and the distances of values."""
        k = torch.arange(self.block, dtype=torch.float64)
        basis = torch.cos(torch.outer(k, 2 * k + 1) * (math.pi / (2 * self.block)))
        basis /= torch.linalg.vector_norm(basis, dim=1, keepdim=True)
        sides = [torch.kron(torch.eye(size // self.block), basis) for size in shape[1:]]
        frequencies = torch.meshgrid(*[k.repeat(size // self.block) for size in shape[1:]], indexing="ij")
        return (None, *sides, self.step * (1 + torch.stack(frequencies).sum(0)))

    def apply(self, x: Tensor) -> Tensor:
        *basis, steps = self.placed(x, tuple(x.shape[1:]))
        rounded = rotate((rotate(x, basis) / steps).round() * steps, basis, inverse=True)
        return x + (rounded - x).detach()
