"""Self-attention over the pixels of an image, one head (Ho et al. 2020, arXiv:2006.11239).

    out = x + W_3 softmax(q k^T / sqrt(C)) v,    q, k, v = W_0 n, W_1 n, W_2 n,    n = GroupNorm(x)

The three projections are one matrix product. PyTorch's fused attention computes the softmax in tiles, without an
(HW, HW) matrix. Its fused kernels have a first derivative in reverse mode only; whatever needs more (a loss that
differentiates twice, forward mode) runs under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import NIN, group_norm, merge


class AttentionBlock(nn.Module):
    """Attention with its residual connection: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, *, min_group: int, scale: float, rescale: bool) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels, min_group)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, scale)
        self.rescale = rescale

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        inputs = (self.NIN_0, self.NIN_1, self.NIN_2)
        weight, bias = torch.cat([nin.W for nin in inputs], 1), torch.cat([nin.b for nin in inputs])
        # (B, HW, C): a view if the image is in channels-last layout.
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        q, k, v = F.linear(tokens, weight.t(), bias).unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        out = F.linear(mixed, self.NIN_3.W.t(), self.NIN_3.b)
        return merge(x, out.transpose(1, 2).reshape(batch, channels, height, width), self.rescale)
