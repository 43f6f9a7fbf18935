"""The dilated RefineNet of NCSN and NCSNv2 (Lin et al. 2017, arXiv:1611.06612; Song & Ermon 2019, 1907.05600).

A chain of residual stages reads the image at falling resolution; below some resolution, dilation widens the receptive
field instead of pooling. A chain of refinement blocks then returns from the coarsest stage: each fuses its stage with
the refined coarser one. One block is

    adapt      residual convolution units (RCU) on every input
    fuse       multi-resolution fusion (MSF): convolve, enlarge bilinearly to the finest input, add
    pool       chained residual pooling (CRP): x + pool-conv(x) + pool-conv(pool-conv(x)) + ...
    output     more RCUs

Parameter names and their order are those of the published checkpoints; a norm without parameters has no entry.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_
from torch import Tensor, nn
from torch.nn import functional as F
from scoresde_core import param
from scoresde_run import Network
from scoresde_run.models.parameterisation import PARAMETERISATIONS, named_in
from .layers import ACTIVATIONS, NONLINEARITIES, RECOMPUTE_HELP, run

EPS = 1e-5
Pooling = Literal["max", "mean"]

Norm = Callable[[int], nn.Module]
"""Builds a norm for a number of channels: ``norm(x, index)``, x (B, C, H, W), ``index`` (B,) noise levels or None."""


def instance_norm_plus(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """InstanceNorm++ of ``x`` (B, C, H, W) with coefficients (C,), or (B, C) for one set per row.

    Plain instance normalisation discards the mean of every feature map x_k, and with it the colour of the image. This
    adds a standardised copy of those means (Song & Ermon 2019, Appendix A): of one image,

        z_k = gamma_k ((x_k - mu_k) / s_k + alpha_k (mu_k - m) / v) + beta_k

    with mu_k, s_k^2 the mean and the (biased) variance of x_k over its pixels, m and v^2 the mean and the (unbiased)
    variance of mu_1..mu_C; 1e-5 is added to both variances.
    """
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
    """InstanceNorm++ with a row (gamma, alpha, beta) of coefficients for each of ``scales`` noise levels."""

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
        return x * (self.alpha[:, None, None] * torch.rsqrt(x.var((2, 3), keepdim=True) + EPS))


class NoNorm(nn.Identity):
    """The identity, without parameters."""

    def forward(self, input: Tensor, index: Tensor | None = None) -> Tensor:
        return input


NORMS: dict[str, Norm] = {"instance_plus": InstanceNormPlus, "variance": VarianceNorm, "none": NoNorm}


@attrs.frozen
class Stage:
    """Two residual blocks at one resolution, called ``name``, and the block ``refine`` that reads them on the way back.

    ``width`` counts channels in units of ``nf``. With ``pool`` the stage halves the image; otherwise ``dilation``
    spaces the taps of its convolutions.
    """

    name: str
    refine: str
    width: int
    pool: bool = False
    dilation: int = 1


def conv3x3(inputs: int, outputs: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size of the image."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class PooledConv(nn.Module):
    """A convolution, then the mean over 2x2 pixels, sides rounded up: an odd one has a row of zeros at its start."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            x = F.pad(x, (width % 2, 0, height % 2, 0))
        if self.conv.kernel_size == (1, 1):  # commutes with the mean, after which there are a quarter of the pixels
            return F.conv2d(F.avg_pool2d(x, 2), self.conv.weight, self.conv.bias)
        return F.avg_pool2d(self.conv(x), 2)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), (B, C, H, W); ``entry`` blocks change a stage's width or resolution."""

    def __init__(self, inputs: int, stage: Stage, outputs: int, norm: Norm, act: nn.Module, *, entry: bool) -> None:
        super().__init__()
        pool = entry and stage.pool
        self.conv1 = conv3x3(inputs, inputs, stage.dilation)
        self.normalize2 = norm(inputs)
        self.conv2 = PooledConv(inputs, outputs, 3) if pool else conv3x3(inputs, outputs, stage.dilation)
        self.shortcut: nn.Module | None = None
        if entry:
            self.shortcut = PooledConv(inputs, outputs, 1) if pool else conv3x3(inputs, outputs, stage.dilation)
        self.normalize1 = norm(inputs)
        self.act = act

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        h = self.conv1(self.act(self.normalize1(x, index)))
        h = self.conv2(self.act(self.normalize2(h, index)))
        return h + (x if self.shortcut is None else self.shortcut(x))  # type: ignore[no-any-return]


class ResidualUnits(nn.ModuleDict):
    """RCU: ``units`` times x + conv(act(norm(conv(act(norm(x)))))), named ``UNIT_PLACE_norm`` and ``_conv``."""

    def __init__(self, channels: int, units: int, norm: Norm, act: nn.Module) -> None:
        super().__init__()
        self.units = units
        for unit in range(1, units + 1):
            for place in (1, 2):
                self[f"{unit}_{place}_norm"] = norm(channels)
                self[f"{unit}_{place}_conv"] = conv3x3(channels, channels, bias=False)
        self.act = act

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        for unit in range(1, self.units + 1):
            h = x
            for place in (1, 2):
                h = self[f"{unit}_{place}_conv"](self.act(self[f"{unit}_{place}_norm"](h, index)))
            x = h + x
        return x


class Fusion(nn.Module):
    """MSF: convolutions of inputs (B, C_i, H_i, W_i), enlarged to the first one's size and added."""

    def __init__(self, inputs: Sequence[int], outputs: int, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, outputs) for channels in inputs)
        self.norms = nn.ModuleList(norm(channels) for channels in inputs)

    def forward(self, inputs: Sequence[Tensor], index: Tensor | None) -> Tensor:
        size = inputs[0].shape[2:]
        maps = [conv(norm(x, index)) for conv, norm, x in zip(self.convs, self.norms, inputs, strict=True)]
        fused: Tensor = maps[0]
        for h in maps[1:]:
            fused = fused + (h if h.shape[2:] == size else F.interpolate(h, size, mode="bilinear", align_corners=True))
        return fused


class ChainedPooling(nn.Module):
    """CRP: act(x) plus two pooled and convolved copies, each made from the one before.

    Pooling is the maximum, or with zeros outside the image the mean, over the 5x5 pixels around each pixel.
    """

    def __init__(self, channels: int, norm: Norm, act: nn.Module, pool: Pooling) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, channels, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.act, self.pool = act, {"max": nn.MaxPool2d, "mean": nn.AvgPool2d}[pool](5, 1, 2)

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        total: Tensor = self.act(x)
        path = total
        for conv, norm in zip(self.convs, self.norms, strict=True):
            path = norm(path, index)
            if x.device.type == "cpu":  # channels-last pooling is several times faster on CPUs, despite two copies
                path = path.contiguous(memory_format=torch.channels_last)
            path = conv(self.pool(path).contiguous())
            total = total + path
        return total


class RefineBlock(nn.Module):
    """Adapt inputs (B, C_i, H_i, W_i), the finest first, fuse them, pool, and apply ``units`` residual units."""

    def __init__(self, inputs: list[int], outputs: int, norm: Norm, act: nn.Module, pool: Pooling, units: int) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(ResidualUnits(channels, 2, norm, act) for channels in inputs)
        self.output_convs = ResidualUnits(outputs, units, norm, act)
        self.msf = Fusion(inputs, outputs, norm) if len(inputs) > 1 else None
        self.crp = ChainedPooling(outputs, norm, act, pool)

    def forward(self, inputs: Sequence[Tensor], index: Tensor | None) -> Tensor:
        adapted = [unit(x, index) for unit, x in zip(self.adapt_convs, inputs, strict=True)]
        h = adapted[0] if self.msf is None else self.msf(adapted, index)
        return self.output_convs(self.crp(h, index), index)  # type: ignore[no-any-return]


@attrs.frozen(kw_only=True)
class RefineNetSpec(Network):
    """The options that ``ncsn`` and ``ncsnv2`` share."""

    parameterisation: str = param("score", "meaning of the raw output", named_in(PARAMETERISATIONS))
    nf: int = param(128, "channels of the first stage", ge(2))
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = param("elu", "activation", in_(NONLINEARITIES))
    centered: bool = param(False, "data are in [-1, 1]; false: in [0, 1], mapped to [-1, 1]")
    recompute: bool = param(False, RECOMPUTE_HELP)


class RefineNet(nn.Module):
    """The whole network, from images (B, C, H, W) and noise levels (B,), whole numbers in any dtype, to raw scores.

    ``norm`` is for the residual stages and the output, ``inner`` and ``pool`` for the refinement blocks.
    """

    def __init__(
        self, spec: RefineNetSpec, channels: int, stages: Sequence[Stage], *, norm: Norm, pool: Pooling, inner: Norm
    ) -> None:
        super().__init__()
        self.stages, self.centered, self.recompute = tuple(stages), spec.centered, spec.recompute
        self.act = act = ACTIVATIONS[spec.nonlinearity]()
        nf = spec.nf
        self.begin_conv = conv3x3(channels, nf)
        self.normalizer = norm(nf)
        self.end_conv = conv3x3(nf, channels)
        widths = [stage.width * nf for stage in stages]
        for stage, inputs, outputs in zip(stages, [nf, *widths[:-1]], widths, strict=True):
            first = ResidualBlock(inputs, stage, outputs, norm, act, entry=stage is not stages[0])
            second = ResidualBlock(outputs, stage, outputs, norm, act, entry=False)
            self.add_module(stage.name, nn.ModuleList([first, second]))
        # The output of a refinement block has the width of the next finer stage. The published parameters, and the
        # ordered EMA lists made from them, have the blocks in the order of their names.
        finer = [widths[0], *widths[:-1]]
        for k in sorted(range(len(stages)), key=lambda k: stages[k].refine):
            sources = [widths[k]] if k == len(stages) - 1 else [widths[k], finer[k + 1]]
            block = RefineBlock(sources, finer[k], inner, act, pool, units=1 if k else 3)
            self.add_module(stages[k].refine, block)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        index = label.round().long()
        h = self.begin_conv(x if self.centered else 2 * x - 1)
        found = []
        for stage in self.stages:
            for block in self.get_submodule(stage.name).children():
                h = run(block, h, index, recompute=self.recompute)
            found.append(h)
        h = run(self.get_submodule(self.stages[-1].refine), [found[-1]], index, recompute=self.recompute)
        for stage, feature in zip(self.stages[-2::-1], found[-2::-1], strict=True):
            h = run(self.get_submodule(stage.refine), [feature, h], index, recompute=self.recompute)
        return self.end_conv(self.act(self.normalizer(h, index)))  # type: ignore[no-any-return]


def check_image(name: str, shape: tuple[int, ...], stages: Sequence[Stage]) -> int:
    """Return the channels of images of ``shape`` (C, H, W); raise ``ValueError`` if the network cannot read them."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name} reads images of shape (channels, height, width), not events of shape {tuple(shape)}")
    halvings = sum(stage.pool for stage in stages)
    height, width = shape[1:]
    if max(height, width) <= 2**halvings:
        why = f"{name} halves the image {halvings} times, which leaves a single pixel of {height}x{width}"
        raise ValueError(f"{why}: one side must exceed {2**halvings} pixels")
    return shape[0]
