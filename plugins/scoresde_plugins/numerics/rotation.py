"""Rotation of events into an orthonormal basis, by one small matrix an axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Basis = Sequence[Tensor | None]
"""One orthonormal matrix for each axis of an event, with the basis as its rows; None leaves the axis unchanged. Q is
their Kronecker product."""


def rotate(x: Tensor, basis: Basis, inverse: bool = False) -> Tensor:
    """Return the coefficients Q x of events (n, *shape), or Q^T x with ``inverse``."""
    for axis, matrix in enumerate(basis, start=1):
        if matrix is not None:
            x = torch.tensordot(x, (matrix if inverse else matrix.T).to(x.dtype), ([axis], [0])).movedim(-1, axis)
    return x
