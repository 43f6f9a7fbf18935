"""Gaussian blur, with repeated edges."""

import attrs
import torch
from attrs.validators import gt
from torch import Tensor
from scoresde_core import param
from .structure import SeparableOperator


@attrs.frozen
class BlurOperator(SeparableOperator):
    """Weighted means with weights exp(-d^2 / (2 width^2)) up to a distance of 4 widths, of the size of the event."""

    width: float = param(1.0, "standard deviation in pixels", gt(0))

    def matrix(self, size: int) -> Tensor:
        reach = max(1, round(4 * self.width))
        offsets = torch.arange(-reach, reach + 1)
        weights = (-0.5 * (offsets.double() / self.width).square()).exp()
        matrix = torch.zeros(size, size, dtype=torch.float64)
        rows = torch.arange(size).unsqueeze(1).expand(-1, len(offsets))
        columns = (rows + offsets).clamp(0, size - 1)
        matrix.index_put_((rows, columns), (weights / weights.sum()).expand_as(rows), accumulate=True)
        return matrix
