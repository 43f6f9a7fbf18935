"""Embeddings of time: a vector of sines and cosines of the label.

    positional:  w_k = 10000^(-k / (n/2 - 1)),       k = 0 ... n/2 - 1     (Ho et al. 2020, arXiv:2006.11239)
    Fourier:     w_k = 2 pi W_k,  W_k ~ N(0, scale^2), k = 0 ... n - 1     (Tancik et al. 2020, arXiv:2006.10739)

    embedding(label) = [sin(w label), cos(w label)]

W is drawn once and then fixed, unless it is trained (Song et al. 2021, arXiv:2101.09258). For Fourier features of a
noise scale the caller takes its logarithm first: sigma spans four orders of magnitude.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_POSITIONS = 10_000


def positional_embedding(label: Tensor, size: int) -> Tensor:
    """Labels (B,) to (B, size), in float32 or better; with an odd ``size`` the last entry is zero."""
    label = label.to(torch.promote_types(label.dtype, torch.float32))
    half = size // 2
    steps = torch.arange(half, dtype=label.dtype, device=label.device)
    angle = label[:, None] * torch.exp(steps * (-math.log(MAX_POSITIONS) / (half - 1)))
    return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, size % 2))


class FourierEmbedding(nn.Module):
    """Labels (B,) to (B, 2 size); ``W`` (size,) is a parameter, frozen unless ``trainable``."""

    def __init__(self, size: int, scale: float, trainable: bool) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=trainable)

    def forward(self, label: Tensor) -> Tensor:
        """(B,) -> (B, 2 size)."""
        # Angles reach several hundred radians, so the products have the order of the published code, to agree in
        # float32.
        angle = label[:, None] * self.W * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], 1)
