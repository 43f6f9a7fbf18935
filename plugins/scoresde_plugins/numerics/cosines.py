"""The orthonormal cosine basis (DCT-II)."""

import math

import torch
from torch import Tensor


def cosines(size: int) -> Tensor:
    """The basis as rows (size, size), float64; row k has k/2 cycles per event."""
    position = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    basis = (math.pi * position[:, None] * torch.arange(size, dtype=torch.float64)).cos() * math.sqrt(2 / size)
    basis[:, 0] /= math.sqrt(2)
    return basis.T
