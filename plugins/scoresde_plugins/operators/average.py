"""Means of blocks: subsampling, of which super-resolution is the inverse."""

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import param
from scoresde_run.sampling.operator import Shape
from .structure import SeparableOperator


@attrs.frozen
class AverageOperator(SeparableOperator):
    """Means of blocks of ``factor`` entries along each side, (C, H / factor, W / factor)."""

    factor: int = param(2, "side of the blocks, a divisor of the event's sides", ge(2))

    def measured(self, shape: Shape) -> Shape:
        if any(size % self.factor for size in shape[1:]):
            raise ValueError(f"blocks of {self.factor} do not tile events of shape {list(shape)}: choose a divisor")
        return super().measured(shape)

    def matrix(self, size: int) -> Tensor:
        blocks = torch.eye(size // self.factor, dtype=torch.float64)
        return blocks.repeat_interleave(self.factor, 1) / self.factor
