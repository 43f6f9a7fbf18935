"""Phase retrieval: the magnitudes of an event's Fourier transform, without their phases; not linear."""

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import param
from scoresde_run import Operator
from scoresde_run.sampling.operator import Shape


@attrs.frozen
class PhaseOperator(Operator):
    """|F x|, F orthonormal, of events with zeros added to ``oversampling`` times their sides; (C, ..., m // 2 + 1).

    An event, its negative and its mirror image have the same magnitudes, as have shifts of what has room in the zeros.
    """

    linear = False
    oversampling: int = param(2, "sides of the transform in units of the event's", ge(1))

    def measured(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"phase needs events with channels and sides (C, H, W), not of shape {list(shape)}")
        *sides, last = (self.oversampling * size for size in shape[1:])
        return (shape[0], *sides, last // 2 + 1)

    def apply(self, x: Tensor) -> Tensor:
        sides = [self.oversampling * size for size in x.shape[2:]]
        found: Tensor = torch.fft.rfftn(x, sides, dim=tuple(range(2, x.ndim)), norm="ortho").abs()
        return found
