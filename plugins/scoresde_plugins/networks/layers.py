"""Layers that the U-Nets share, their initial values, and the halving and doubling of images.

Weights are drawn as in DDPM (Ho et al. 2020, arXiv:2006.11239, released code), uniformly, scaled by the mean of fans:

    W ~ U(-a, a),    a^2 = 3 scale / ((fan_in + fan_out) / 2),    biases 0

A ``scale`` of 0 stands for 1e-10: the layer starts at (almost) zero, so that a residual branch starts as the identity
and the network's output as zero, yet its weights still receive a gradient from the layers behind it.

Attribute names with a capital and a number (``Conv_0``, ``NIN_0``) are those of the published checkpoints.

A FIR filter with taps k (here the binomial [1, 3, 3, 1]) removes the frequencies that the coarser grid cannot represent
(Zhang 2019, arXiv:1904.11486; StyleGAN2, Karras et al. 2020, arXiv:1912.04958; NCSN++, Song et al. 2021,
arXiv:2011.13456, Appendix H). With K = k k^T / (sum k)^2, zeros outside the image, n = len(k), p = n - 2:

    down:       y = (K * pad(x; ceil(p/2), floor(p/2)))[::2, ::2]
    up:         y = 4 K * pad(zeros inserted between the pixels of x; ceil(p/2) + 1, floor(p/2))
    conv_down:  y = conv(w, stride 2)(K * pad(x; ceil(n/2), floor(n/2)))
    conv_up:    y = 4 K * pad(conv(w)(zeros inserted between the pixels of x); ceil(n/2) - 1, floor(n/2) - 1)

The factor 4 compensates for the inserted zeros. K is the same for each channel, so ``down`` is one depthwise
convolution of stride 2 and ``up`` its transpose: neither the zeros nor the discarded pixels are computed. Taps are
convolved as written (mirrored before PyTorch's cross-correlation), which matters for kernels that are not symmetric.

Shapes are written for images (B, C, H, W). All but the FIR filters serve signals (B, C, L) and volumes (B, C, H, W, D)
too; a layer with a convolution is made for its number of sides, ``dims``.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from scoresde_core.shapes import expand

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

    def forward(self, x: Tensor) -> Any:
        return self.fresh(x) if torch.is_grad_enabled() else self.inplace(x)


SMALLEST_SCALE = 1e-10
RECOMPUTE_HELP = "save memory in training: store only the inputs of the blocks, and recompute the blocks going back"


def geometric(first: float, last: float, count: int) -> Tensor:
    """``count`` values in geometric progression, float32; computed in float64, as in the published code."""
    return torch.linspace(math.log(first), math.log(last), count, dtype=torch.float64).exp().float()


def scaled_uniform_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Fill ``weight`` (out, in, ...) with this law, in place, and return it."""
    mean_fan = (weight.shape[0] + weight.shape[1]) * math.prod(weight.shape[2:]) / 2
    bound = math.sqrt(3 * (scale or SMALLEST_SCALE) / mean_fan)
    return nn.init.uniform_(weight, -bound, bound)


def conv(
    in_channels: int, out_channels: int, size: int = 3, *, stride: int = 1, scale: float = 1.0, dims: int = 2
) -> nn.modules.conv._ConvNd:
    """Return a convolution that keeps its input's size; with a ``stride`` it does not pad, since its caller does."""
    padding = size // 2 if stride == 1 else 0
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](in_channels, out_channels, size, stride, padding)
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
    """GroupNorm with 32 groups, or fewer of at least ``min_group`` channels; ``ValueError`` if they do not divide."""
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
        image = x.reshape(*x.shape[:3], -1)  # as an image is; others have all sides but the first in one
        return F.conv2d(image, self.W.t()[:, :, None, None], self.b).reshape(len(x), -1, *x.shape[2:])


def run(layer: nn.Module, *inputs: Any, recompute: bool, random: bool = False) -> Tensor:
    """Return ``layer(*inputs)``; with ``recompute``, training stores only the inputs, and going back computes the rest.

    (Chen et al. 2016, arXiv:1604.06174.) The gradients are bitwise the same: a ``random`` layer, such as one with
    dropout, draws the same numbers again.
    """
    saving = recompute and layer.training and torch.is_grad_enabled()
    call = partial(checkpoint, layer, use_reentrant=False, preserve_rng_state=random) if saving else layer
    return call(*inputs)  # type: ignore[no-any-return]


def merge(x: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """``x + branch``, divided by sqrt(2) if ``rescale``, which keeps the variance of independent summands."""
    total = x + branch  # a new tensor, so that the division can be in place
    return total.mul_(math.sqrt(0.5)) if rescale else total


def positional_embedding(label: Tensor, size: int) -> Tensor:
    """Labels (B,) to (B, size), in float32 or better; with an odd ``size`` the last entry is zero.

    [sin(w label), cos(w label)],  w_k = 10000^(-k / (n/2 - 1)),  k = 0 ... n/2 - 1  (Ho et al. 2020)
    """
    label = label.to(torch.promote_types(label.dtype, torch.float32))
    half = size // 2
    steps = torch.arange(half, dtype=label.dtype, device=label.device)
    angle = label[:, None] * torch.exp(steps * (-math.log(10_000) / (half - 1)))
    return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, size % 2))


class FourierEmbedding(nn.Module):
    """Labels (B,) to (B, 2 size): sin and cos of 2 pi W label, W ~ N(0, scale^2) (Tancik et al. 2020, 2006.10739).

    ``W`` (size,) is drawn once and fixed, unless ``trainable`` (Song et al. 2021, arXiv:2101.09258). For features of a
    noise scale the caller takes its logarithm first: sigma spans four orders of magnitude.
    """

    def __init__(self, size: int, scale: float, trainable: bool) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=trainable)

    def forward(self, label: Tensor) -> Tensor:
        # Angles reach several hundred radians: to agree in float32, products have the order of the published code.
        angle = label[:, None] * self.W * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], 1)


@attrs.frozen
class BlockStyle:
    """The options that all blocks of a network share; ``embedding`` is the embedding's length, None for none."""

    activation: Callable[[Tensor], Tensor]
    embedding: int | None
    biggan: bool
    dropout: float
    min_group: int
    scale: float
    rescale: bool
    dims: int = 2


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, one head (Ho et al. 2020): (B, C, H, W) -> (B, C, H, W).

        out = x + W_3 softmax(q k^T / sqrt(C)) v,    q, k, v = W_0 n, W_1 n, W_2 n,    n = GroupNorm(x)

    The three projections are one matrix product. PyTorch's fused attention needs no (HW, HW) matrix, and has a first
    derivative in reverse mode only: whatever needs more (a loss that differentiates twice, forward mode) runs under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    """

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels, style.min_group)
        self.NIN_0, self.NIN_1, self.NIN_2 = (NIN(channels, channels) for _ in range(3))
        self.NIN_3 = NIN(channels, channels, style.scale)
        self.rescale = style.rescale

    def forward(self, x: Tensor) -> Tensor:
        inputs = (self.NIN_0, self.NIN_1, self.NIN_2)
        weight, bias = torch.cat([nin.W for nin in inputs], 1), torch.cat([nin.b for nin in inputs])
        # (B, HW, C): a view if the image is in channels-last layout.
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        q, k, v = F.linear(tokens, weight.t(), bias).unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        out = F.linear(mixed, self.NIN_3.W.t(), self.NIN_3.b)
        return merge(x, out.transpose(1, 2).reshape(x.shape), self.rescale)


class ResidualBlock(nn.Module):
    """(B, in, H, W) and the activated embedding (B, E) or None -> (B, out, H', W'), H' by ``resample``.

        h   = Conv_0(resample(act(GroupNorm_0(x)))) + Dense_0(act(embedding))
        h   = Conv_1(Dropout(act(GroupNorm_1(h))))
        out = (shortcut(resample(x)) + h) [/ sqrt(2)]

    ``ddpm`` (Ho et al. 2020) never resamples, and its shortcut is a NIN if the number of channels changes. ``biggan``
    (Brock et al. 2019, arXiv:1809.11096; Song et al. 2021, arXiv:2011.13456, Appendix H) may resample both paths inside
    the block, and its shortcut is a 1x1 convolution if anything changes.
    """

    def __init__(self, inputs: int, outputs: int, style: BlockStyle, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.style, self.resample = style, resample
        self.GroupNorm_0 = group_norm(inputs, style.min_group)
        self.Conv_0 = conv(inputs, outputs, dims=style.dims)
        if style.embedding is not None:
            self.Dense_0 = dense(style.embedding, outputs)
        else:
            self.register_load_state_dict_pre_hook(_drop_dense)  # type: ignore[no-untyped-call]
        self.GroupNorm_1 = group_norm(outputs, style.min_group)
        self.Dropout_0 = nn.Dropout(style.dropout)
        self.Conv_1 = conv(outputs, outputs, scale=style.scale, dims=style.dims)
        self.changes = inputs != outputs or resample is not None
        if self.changes and style.biggan:
            self.Conv_2 = conv(inputs, outputs, 1, dims=style.dims)
        elif self.changes:
            self.NIN_0 = NIN(inputs, outputs)

    def forward(self, x: Tensor, embedding: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """Return (B, out, H', W'); ``skip`` holds the last of the ``in`` channels, if they come in two parts."""
        if skip is not None:
            x = torch.cat([x, skip], 1)
        activation = self.style.activation
        h = activation(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h)
        if embedding is not None:
            h += expand(self.Dense_0(embedding), h)
        h = self.Conv_1(self.Dropout_0(activation(self.GroupNorm_1(h))))
        if self.changes:
            x = self.Conv_2(x) if self.style.biggan else self.NIN_0(x)
        return merge(x, h, self.style.rescale)


def _drop_dense(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Drop the label's layer, which published checkpoints of unconditional networks contain."""
    for name in ("weight", "bias"):
        state.pop(f"{prefix}Dense_0.{name}", None)


class Blur(nn.Module):
    """Filters by K times ``gain`` and keeps every ``stride``-th pixel: (B, C, H, W) -> (B, C, H', W').

    ``spare`` zeros are padded along each axis, half of them at its start. The kernel is not in checkpoints.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float], spare: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        line = torch.tensor(taps, dtype=torch.float64).flip(0)
        square = torch.outer(line, line)
        self.register_buffer("kernel", (square * (gain / square.sum())).float()[None, None], persistent=False)
        self.pad, self.stride = ((spare + 1) // 2, spare // 2), stride

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.pad
        if before != after:  # only taps of odd length
            x, before = F.pad(x, (before, after, before, after)), 0
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=before, groups=len(kernel))


class FIRDown(Blur):
    """``down``: (B, C, 2H, 2W) -> (B, C, H, W)."""

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__(taps, len(taps) - 2, stride=2)


class FIRUp(Blur):
    """``up``: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__(taps[::-1], 0, gain=4.0)  # a transposed convolution mirrors them itself
        self.cut, self.odd = (len(taps) - 2) // 2, len(taps) % 2 == 1

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        kernel = self.kernel.expand(channels, -1, -1, -1)
        # The full transpose has 2(H - 1) + n rows; the image is the 2H of them that start at floor(p/2).
        y = F.conv_transpose2d(x, kernel, stride=2, padding=self.cut, groups=channels)
        return y[:, :, : 2 * height, : 2 * width] if self.odd else y


def mean_down(dims: int = 2) -> nn.Module:
    """The mean of each 2x2 square: (B, C, 2H, 2W) -> (B, C, H, W)."""
    return (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1](2)


NearestUp = partial(nn.Upsample, scale_factor=2.0, mode="nearest")
"""Each pixel four times: (B, C, H, W) -> (B, C, 2H, 2W)."""


class ConvDown(nn.Sequential):
    """(B, in, 2H, 2W) -> (B, out, H, W): 3x3, stride 2, padded at the far edges as TensorFlow's 'SAME'."""

    def __init__(self, in_channels: int, out_channels: int, dims: int = 2) -> None:
        pad = nn.ConstantPad2d((0, 1) * dims, 0.0)  # type: ignore[arg-type]  # it serves any number of sides
        super().__init__(OrderedDict(pad=pad, Conv_0=conv(in_channels, out_channels, stride=2, dims=dims)))


class ConvUp(nn.Sequential):
    """(B, in, H, W) -> (B, out, 2H, 2W): nearest neighbours, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, dims: int = 2) -> None:
        super().__init__(OrderedDict(grow=NearestUp(), Conv_0=conv(in_channels, out_channels, dims=dims)))


class FIRConvDown(nn.Sequential):
    """``conv_down``, (B, in, 2H, 2W) -> (B, out, H, W): the filter, then a 3x3 convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[float]) -> None:
        down = conv(in_channels, out_channels, stride=2)
        super().__init__(OrderedDict(blur=Blur(taps, len(taps)), Conv2d_0=down))


class FIRConvUp(nn.Module):
    """``conv_up``, (B, in, H, W) -> (B, out, 2H, 2W): convolution of the zero-inserted image, filter, bias."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.blur = Blur(taps, len(taps) - 2, gain=4.0)
        self.Conv2d_0 = conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # Convolving an image with inserted zeros is a transposed convolution with the mirrored weight.
        weight = self.Conv2d_0.weight.flip(2, 3).transpose(0, 1)
        y = self.blur(F.conv_transpose2d(x, weight, stride=2))
        return y + self.Conv2d_0.bias[:, None, None]  # type: ignore[index,no-any-return]
