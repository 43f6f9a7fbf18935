"""Layers that the U-Nets share, and their initial values.

Weights are drawn as in DDPM (Ho et al. 2020, arXiv:2006.11239, released code), variance scaling over the mean of
the fans with a uniform law:

    W ~ U(-a, a),    a^2 = 3 scale / ((fan_in + fan_out) / 2),    biases 0

A ``scale`` of 0 stands for 1e-10: the layer starts at (almost) zero, so that a residual branch starts as the identity
and the network's output as zero, yet its weights still receive a gradient from the layers behind it.

Attribute names with a capital and a number (``Conv_0``, ``NIN_0``) are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .winograd import Conv3x3

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "lrelu": partial(nn.LeakyReLU, 0.2),
    "swish": nn.SiLU,
}
"""The nonlinearities of the papers; ``swish`` is x sigmoid(x)."""

NONLINEARITIES = tuple(ACTIVATIONS)


class Overwrite(nn.Module):
    """An activation that overwrites its input where no gradient is recorded: for inputs that nothing else reads."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.fresh, self.inplace = ACTIVATIONS[name](), ACTIVATIONS[name](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fresh(x) if torch.is_grad_enabled() else self.inplace(x)
        return out


SMALLEST_SCALE = 1e-10
RECOMPUTE_HELP = "save memory in training: store only the inputs of the blocks, and recompute the blocks going back"


def geometric(first: float, last: float, count: int) -> Tensor:
    """``count`` values in geometric progression, float32; computed in float64, as in the published code."""
    return torch.linspace(math.log(first), math.log(last), count, dtype=torch.float64).exp().float()


def scaled_uniform_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Fill ``weight`` (out, in, ...) with this law, in place, and return it."""
    receptive = math.prod(weight.shape[2:])
    mean_fan = (weight.shape[0] + weight.shape[1]) * receptive / 2
    bound = math.sqrt(3 * (scale or SMALLEST_SCALE) / mean_fan)
    return nn.init.uniform_(weight, -bound, bound)


def conv(in_channels: int, out_channels: int, size: int = 3, *, stride: int = 1, scale: float = 1.0) -> nn.Conv2d:
    """Return a convolution that keeps its input's size; with a ``stride`` it does not pad, since its caller does."""
    padding = size // 2 if stride == 1 else 0
    if (size, stride) == (3, 1):
        layer: nn.Conv2d = Conv3x3(in_channels, out_channels)
    else:
        layer = nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=padding)
    scaled_uniform_(layer.weight, scale)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def dense(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer."""
    layer = nn.Linear(in_features, out_features)
    scaled_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int, min_group: int = 4) -> nn.GroupNorm:
    """Return GroupNorm with 32 groups, or fewer if a group would have less than ``min_group`` channels; eps 1e-6.

    Raises ``ValueError`` if the groups do not divide the channels.
    """
    groups = min(channels // min_group, 32)
    if groups < 1 or channels % groups:
        raise ValueError(
            f"a layer of {channels} channels cannot be split into {max(groups, 1)} groups of at least {min_group}: "
            f"set nf to a multiple of 32, or of {min_group} if every layer has fewer than {32 * min_group} channels"
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


class NIN(nn.Module):
    """A 1x1 convolution (network in network) stored as a matrix ``W`` (in, out) and a bias ``b`` (out,)."""

    def __init__(self, in_channels: int, out_channels: int, scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(scaled_uniform_(torch.empty(in_channels, out_channels), scale))
        self.b = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


def recomputed(layer: Callable[..., Tensor], *inputs: Any, random: bool = False) -> Tensor:
    """Return ``layer(*inputs)``, storing only the inputs for the backward pass, which recomputes the rest.

    (Chen et al. 2016, arXiv:1604.06174.) The gradients are bitwise the same: a ``random`` layer, such as one with
    dropout, draws the same numbers again.
    """
    out: Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=random)
    return out


def merge(x: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """``x + branch``, divided by sqrt(2) if ``rescale``, which keeps the variance of independent summands."""
    total = x + branch  # a new tensor, so that the division can be in place
    return total.mul_(math.sqrt(0.5)) if rescale else total
