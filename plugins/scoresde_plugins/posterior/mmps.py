"""MMPS (Rozet et al. 2024, arXiv:2405.13712, Algorithm 3): shift = V A^T (A V A^T + r^2)^{-1} (y - A D).

It is right for Gaussians.
"""

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import param
from .method import Look, PosteriorMethod


@attrs.frozen
class MMPS(PosteriorMethod):
    """Guidance with the model's covariance, by conjugate gradients; ``iterations`` + 1 Jacobian products."""

    iterations: int = param(3, "iterations of conjugate gradients: one a distinct variance is exact", ge(1))

    def shift(self, look: Look) -> Tensor:
        def ratio(a: Tensor, b: Tensor) -> Tensor:  # where nothing is left to solve, b is 0
            return torch.where(b > 0, a / b, 0.0).reshape(-1, *[1] * (look.residual.ndim - 1))

        u, rest, along = torch.zeros_like(look.residual), look.residual, look.residual
        square = rest.square().flatten(1).sum(1)
        for _ in range(self.iterations):
            image = look.variance * along + look.gain * look.known.seen(look.covary(along))
            step = ratio(square, (along * image).flatten(1).sum(1))
            u, rest = u + step * along, rest - step * image
            before, square = square, rest.square().flatten(1).sum(1)
            along = rest + ratio(square, before) * along
        return look.covary(u)
