"""The Radon transform: sums along parallel lines, as in computed tomography."""

import math
from collections.abc import Sequence

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import param
from scoresde_run import Operator
from scoresde_run.sampling.operator import Shape


@attrs.frozen
class RadonOperator(Operator):
    """Projections (C, angles, bins) of images, at ``angles`` evenly over 180 degrees; bins are a pixel wide.

    A pixel at (u, v) from the centre lies at u cos(angle) + v sin(angle), u to the right and v down; its value is
    divided among the two nearest bins linearly, so every projection has the sum of the image. Bins cover the diagonal.
    """

    mixes_channels = False

    angles: int = param(30, "number of angles", ge(1))

    def measured(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ValueError(f"radon projects images (channels, height, width), not events of shape {list(shape)}")
        return (shape[0], self.angles, math.ceil(math.hypot(*shape[1:])) + 1)

    def tables(self, shape: Shape) -> Sequence[Tensor]:
        """A of one channel, (angles bins, H W), sparse."""
        (_, count, bins), (_, height, width) = self.measured(shape), shape
        angles = torch.arange(count, dtype=torch.float64).reshape(-1, 1, 1) * (math.pi / count)
        v, u = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in shape[1:])
        at = (u * angles.cos() + v.unsqueeze(1) * angles.sin()).reshape(count, -1) + (bins - 1) / 2
        first = at.floor().long().clamp(0, bins - 2)
        rows = first + bins * torch.arange(count).unsqueeze(1)
        pixels = torch.arange(height * width).expand_as(rows)
        where = torch.stack([torch.stack([rows, rows + 1]).flatten(), pixels.repeat(2, 1).flatten()])
        weights = torch.stack([1 - (at - first), at - first]).flatten()
        sparse = torch.sparse_coo_tensor(where, weights, (count * bins, height * width), check_invariants=True)
        return (sparse.coalesce(),)

    def apply(self, x: Tensor) -> Tensor:
        (matrix,) = self.placed(x, shape := tuple(x.shape[1:]))
        y: Tensor = torch.sparse.mm(matrix, x.reshape(-1, matrix.shape[1]).T).T
        return y.reshape(len(x), *self.measured(shape))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        (matrix,) = self.placed(y, shape)
        x = torch.sparse.mm(matrix.t(), y.reshape(-1, matrix.shape[0]).T).T.reshape(len(y), *shape)
        return x  # type: ignore[no-any-return]
