"""InstanceNorm++ and its ablations (Song & Ermon 2019, arXiv:1907.05600, Appendix A).

Plain instance normalisation discards the mean of every feature map, and with it the colour of the image.
InstanceNorm++ adds a standardised copy of those means. For feature maps x_k, k = 1..C, of one image,

    z_k = gamma_k ((x_k - mu_k) / s_k + alpha_k (mu_k - m) / v) + beta_k

with mu_k, s_k^2 the mean and the (biased) variance of x_k over its pixels, m and v^2 the mean and the (unbiased)
variance of mu_1..mu_C; 1e-5 is added to both variances. ``gamma``, ``alpha`` and ``beta`` are learned: one set, or one
set per noise level in the conditional form.

Every norm here is called as ``norm(x, index)``: ``x`` (B, C, H, W), ``index`` (B,) the integer noise level or None.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5

Norm = Callable[[int], nn.Module]
"""A function that builds a norm for a number of channels."""


def instance_norm_plus(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """InstanceNorm++ of ``x`` (B, C, H, W) with coefficients (C,), or (B, C) for one set per row."""
    batch, channels = x.shape[:2]
    # Means have the coefficients' precision, so that autocast does not round the statistics over channels.
    means = x.mean((2, 3), dtype=gamma.dtype)
    variance, centre = torch.var_mean(means, dim=1, keepdim=True)
    shift = gamma * alpha * (means - centre) * torch.rsqrt(variance + EPS) + beta
    # With one map per channel, batch normalisation is instance normalisation; its affine part applies all coefficients
    # in the same pass over the pixels.
    maps = x.reshape(1, batch * channels, *x.shape[2:])
    scale = gamma.expand(batch, channels)
    return F.batch_norm(maps, None, None, scale.reshape(-1), shift.reshape(-1), training=True, eps=EPS).view(x.shape)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ with one set of coefficients; ``gamma``, ``alpha`` ~ N(1, 0.02^2), ``beta`` = 0 at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels).normal_(1, 0.02))
        self.gamma = nn.Parameter(torch.empty(channels).normal_(1, 0.02))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        return instance_norm_plus(x, self.gamma, self.alpha, self.beta)


class ConditionalInstanceNormPlus(nn.Module):
    """InstanceNorm++ with a set of coefficients for each of ``scales`` noise levels.

    Each row of the weight of ``embed`` is (gamma, alpha, beta), of ``channels`` values each.
    """

    def __init__(self, channels: int, scales: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(scales, 3 * channels)
        with torch.no_grad():
            self.embed.weight[:, : 2 * channels].normal_(1, 0.02)
            self.embed.weight[:, 2 * channels :].zero_()

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        gamma, alpha, beta = self.embed(index).chunk(3, dim=1)
        return instance_norm_plus(x, gamma, alpha, beta)


class VarianceNorm(nn.Module):
    """``alpha_k x_k / s_k`` with the unbiased variance s_k^2 over pixels; the mean is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels).normal_(1, 0.02))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return ``x`` with unit variance in every feature map, times ``alpha``."""
        scale = self.alpha[:, None, None] * torch.rsqrt(x.var((2, 3), keepdim=True) + EPS)
        return x * scale


class NoNorm(nn.Module):
    """The identity, without parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        return x
