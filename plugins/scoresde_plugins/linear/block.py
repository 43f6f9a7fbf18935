r"""Blocks: k x k matrices as the coefficients of processes with k coupled variables, such as position and velocity.

A state holds its k variables in equal parts of dimension 1, and a block mixes them: (M x)_i = sum_j M_ij x_j. Blocks
follow the arithmetic of numbers, so that a formula in alpha and sigma holds for them as it is written, if its factors
stand in the order of the matrices:

    M N, M x     products; with x on the left, x M = M^T x, as rows are multiplied
    M / N        M N^-1, and x / M = M^-T x; M.solve(x) = M^-1 x
    M^2          M M^T, the covariance of a root;  M^0.5 the symmetric root of a covariance
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Block:
    """A matrix (k, k), or one for each row of the state, (B, k, k); float64."""

    matrix: Tensor

    def solve(self, other: Any) -> Any:
        """M^-1 N, or M^-1 x."""
        return Block(torch.linalg.inv(self.matrix)) * other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Block):
            return Block(self.matrix @ other.matrix)
        return self._apply(other) if isinstance(other, Tensor) and other.ndim else Block(self.matrix * other)

    def __rmul__(self, other: Any) -> Any:
        return Block(self.matrix.mT) * other if isinstance(other, Tensor) and other.ndim else self * other

    def __truediv__(self, other: Any) -> Block:
        return Block(torch.linalg.solve(other.matrix, self.matrix, left=False))

    def __rtruediv__(self, other: Any) -> Any:
        return other * Block(torch.linalg.inv(self.matrix))

    def __add__(self, other: Any) -> Block:
        return Block(self.matrix + self._like(other))

    def __sub__(self, other: Any) -> Block:
        return Block(self.matrix - self._like(other))

    def __rsub__(self, other: Any) -> Block:
        return Block(self._like(other) - self.matrix)

    def __neg__(self) -> Block:
        return Block(-self.matrix)

    def __pow__(self, power: float) -> Block:
        if power == 2:
            return Block(self.matrix @ self.matrix.mT)
        if power == 0.5:
            values, vectors = torch.linalg.eigh(self.matrix)
            return Block((vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT)
        raise ValueError(f"a block has the powers 2 and 0.5, got {power}")

    def _like(self, other: Any) -> Tensor:
        """``other``, a block or a number times the identity, as a matrix."""
        if isinstance(other, Block):
            return other.matrix
        eye = torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)
        scaled: Tensor = eye * other
        return scaled

    def _apply(self, x: Tensor) -> Tensor:
        matrix = self.matrix.to(x)
        parts = x.reshape(len(x), matrix.shape[-1], -1)
        mixed: Tensor = (matrix @ parts).reshape(x.shape)
        return mixed
