"""The flow of Flow++ (Ho et al. 2019, arXiv:1902.00275): noise u in (0, 1) given an image v.

    eps ~ N(0, I)  ->  even, odd columns  ->  K x [scale and shift, 1 x 1 convolution, coupling, swap]  ->  sigmoid = u
    log q(u | v) = log N(eps; 0, I) - log |det du/deps|                                               (Section 3.1)

A coupling transforms one half given the other, h, and features c of the image, entry by entry:

    y = logit(F(x; pi, mu, s)) exp(a) + b,   F = sum_k pi_k sigmoid((x - mu_k) / s_k),   (pi, mu, s, a, b) = net(h, c)

with gated convolutions and self-attention in the net. Where ScoreFlow's code (arXiv:2101.09258) starts from statistics
of the first batch, scale and shift start at the identity here: their input is standard normal by construction. Its own
flows (Appendix C there) transform the second half, scale and shift each place, and see both columns at half the width:

    CIFAR-10       [norm, 1 x 1 convolution, coupling, swap], 4 times; the image passes 3 gated convolutions
    ImageNet-32    [norm, coupling, swap], 8 times, weight-normalised convolutions; the image passes 8, with attention
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor, nn
from torch.nn import functional as F
from scoresde_core import FileError, Spec, param
from scoresde_run import Config, Network
from scoresde_run.models.config import ModelConfig

_EDGE = 2.0**-16  # the distance of u from 0 and 1, where float32 grey levels would round into the next cell

Halves = tuple[Tensor, Tensor]


class FlowPPModule(nn.Module):
    """q(u | v) as a flow of standard normal noise."""

    def __init__(self, spec: "FlowPP", shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = shape
        half = (height, width // 2)
        begin = nn.Conv2d(channels, spec.context, 3, padding=1)
        self.context = nn.Sequential(begin, *(Gated(spec.context) for _ in range(3)))
        self.layers = nn.ModuleList(Layer(spec, channels, half) for _ in range(spec.couplings))

    def forward(self, images: Tensor, noise: Tensor) -> Halves:
        """uint8 ``images`` (B, C, H, W) and standard normal ``noise`` -> u like ``noise``, and log q (B,) float64."""
        features: Tensor = self.context(images.to(noise) / 127.5 - 1)
        context = torch.cat(split(features), 1)  # at the width of a half: neighbouring columns become channels
        halves, log_det = split(noise), noise.new_zeros(len(noise), dtype=torch.float64)
        for layer in self.layers:
            halves, change = layer(halves, context)
            log_det = log_det + change
        return finish(halves, noise, log_det)


@attrs.frozen(kw_only=True)
class FlowPP(Network):
    """The size of the flow; the defaults are those for CIFAR-10.

    Its module answers ``forward(images, noise) -> (u, log q(u | images))`` and gives no score: only
    ``scoresde train-dequantizer`` trains it.
    """

    module: ClassVar[type[nn.Module]] = FlowPPModule

    filters: int = param(96, "channels of the couplings' networks", ge(1))
    couplings: int = param(4, "coupling layers", ge(1))
    blocks: int = param(2, "gated convolutions with attention in each coupling", ge(1))
    components: int = param(32, "logistics in each mixture", ge(1))
    heads: int = param(4, "heads of the attention", ge(1))
    context: int = param(32, "channels of the image features", ge(1))

    def __attrs_post_init__(self) -> None:
        if self.filters % self.heads:
            raise ValueError(f"filters must be a multiple of heads, got {self.filters} and {self.heads}")

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        if len(shape) != 3 or shape[2] % 2:
            raise ValueError(f"flowpp splits images into even and odd columns, and {tuple(shape)} has no even width")
        return self.module(self, shape)


class Layer(nn.Module):
    """Scale, shift and 1 x 1 convolution of both halves, a coupling of the first given the second, and a swap."""

    def __init__(self, spec: FlowPP, channels: int, half: tuple[int, int]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(2, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(2, channels, 1, 1))
        self.mix = nn.Parameter(torch.eye(channels).repeat(2, 1, 1) + 0.001 * torch.randn(2, channels, channels))
        self.coupling = Coupling(spec, channels, half)
        self.pixels = half[0] * half[1]

    def forward(self, halves: Halves, context: Tensor) -> tuple[Halves, Tensor]:
        first, second = (
            torch.einsum("oc,bchw->bohw", mix, x * scale.exp() + shift)
            for x, mix, scale, shift in zip(halves, self.mix, self.log_scale, self.shift, strict=True)
        )
        linear = self.pixels * (self.log_scale.sum() + torch.linalg.slogdet(self.mix).logabsdet.sum())
        first, change = self.coupling(first, second, context)
        return (second, first), change + linear


class Coupling(nn.Module):
    """The logit of a mixture of logistics, scaled and shifted, with parameters from the other half and the image."""

    def __init__(self, spec: FlowPP, channels: int, half: tuple[int, int]) -> None:
        super().__init__()
        self.position = nn.Parameter(0.01 * torch.randn(1, spec.filters, *half))
        self.begin = nn.Conv2d(channels + 2 * spec.context, spec.filters, 3, padding=1)
        blocks = [b for _ in range(spec.blocks) for b in (Gated(spec.filters), Attention(spec.filters, spec.heads))]
        self.blocks = nn.Sequential(*blocks)
        self.end = nn.Conv2d(spec.filters, channels * (2 + 3 * spec.components), 3, padding=1)
        # Each half passes every second coupling. Together they start near logit(Phi(x)), so u starts near uniform: the
        # normal distribution function is approximately that of a logistic of scale 1/1.702.
        with torch.no_grad():
            self.end.weight.mul_(0.1)
            bias = self.end.bias.view(channels, -1)  # type: ignore[union-attr]
            bias.zero_()
            bias[:, 2 + spec.components :].view(channels, 2, -1)[:, 0] = torch.linspace(-0.5, 0.5, spec.components)
            bias[:, 2 + 2 * spec.components :] = -math.log(1.702) / max(spec.couplings / 2, 1)

    def forward(self, x: Tensor, other: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = self.begin(torch.cat([other, context], 1)) + self.position
        return couple(x, self.end(self.blocks(h)))


class Gated(nn.Module):
    """Layer norm of x plus a gated 3 x 3 convolution of it (Flow++'s GatedConv)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + gated(self.second(both(self.first(both(x))))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Layer norm of x plus gated self-attention over all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + gated(self.gate(attend(self.project(x), self.heads))))  # type: ignore[no-any-return]


def split(x: Tensor) -> Halves:
    """Return even and odd columns of (B, C, H, W)."""
    return x[..., 0::2], x[..., 1::2]


def merge(halves: Halves) -> Tensor:
    """Invert :func:`split`."""
    return torch.stack(halves, -1).flatten(-2)


def gated(x: Tensor) -> Tensor:
    """Return the first half of the channels, scaled by the sigmoid of the second."""
    value, gate = x.chunk(2, 1)
    return value * gate.sigmoid()


def attend(x: Tensor, heads: int) -> Tensor:
    """Return the attention of all pixels, (B, C, H, W), for queries, keys and values (B, 3 C, H, W)."""
    shape = len(x), x.shape[1] // 3, *x.shape[2:]
    tokens = x.reshape(len(x), 3, heads, shape[1] // heads, math.prod(x.shape[2:])).transpose(3, 4)
    query, key, value = tokens.unbind(1)
    return F.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(shape)


def couple(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return y like ``x`` (B, C, H, W), and the log determinant (B,).

    ``raw`` (B, C (2 + 3 K), H, W) has a before its tanh, b, and the logarithms of pi, mu, log s for each channel.
    """
    raw = raw.unflatten(1, (x.shape[1], -1)).movedim(2, 0)  # type: ignore[no-untyped-call]
    weights, means, log_scales = raw[2:].chunk(3)
    log_scales, scale = log_scales.clamp_min(-7), raw[0].tanh()
    z = (x - means) * (-log_scales).exp()
    low, high = F.logsigmoid(z), F.logsigmoid(-z)
    terms = (low, high, low + high - log_scales)
    below, above, density = ((weights.log_softmax(0) + term).logsumexp(0) for term in terms)
    return (below - above) * scale.exp() + raw[1], summed(density - below - above + scale)


def finish(halves: Halves, noise: Tensor, log_det: Tensor) -> Halves:
    """Return u and log q(u | v) (B,), where the flow turned ``noise`` into ``halves`` with ``log_det``."""
    logits = merge(halves)
    log_det = log_det + summed(F.logsigmoid(logits) + F.logsigmoid(-logits))
    log_normal = -0.5 * (summed(noise.square()) + noise.shape[1:].numel() * math.log(2 * math.pi))
    return logits.sigmoid().clamp(_EDGE, 1 - _EDGE), log_normal - log_det


def both(x: Tensor) -> Tensor:
    """Return the ELU of x and of -x, as channels."""
    return F.elu(torch.cat([x, -x], 1))


def summed(x: Tensor) -> Tensor:
    """Return the sum of each event, (B,) float64."""
    return x.flatten(1).sum(1, dtype=torch.float64)


PUBLISHED = "scoreflow"  # the network's name in the configuration of an imported dequantiser
_NAMES = (("ShallowProcessor_0", "proj_in", "proj_out"), ("DeepProcessor_0", "c1", "c2"))
"""flax's names of the part that sees the image, and of the first and last convolution of a coupling; if deep."""


class PublishedFlow(nn.Module):
    """``forward(images, noise) -> (u, log q(u | images))``, as :class:`~.flowpp.FlowPPModule`, by flax's names."""

    def __init__(self, spec: "ScoreFlow", shape: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self(empty := torch.zeros(0, *shape), empty)  # as in flax, a first pass makes the parameters

    def forward(self, images: Tensor, noise: Tensor) -> Halves:
        """uint8 ``images`` (B, C, H, W) and standard normal ``noise`` -> u like ``noise``, and log q (B,) float64."""
        context = self._context(torch.cat(split(images.to(noise) / 255 - 0.5), 1))
        halves, log_det = split(noise), noise.new_zeros(len(noise), dtype=torch.float64)
        for k in range(self.spec.couplings):
            (first, up), (second, more) = (self._linear(x, k, i) for i, x in enumerate(halves))
            second, change = couple(second, self._raw(f"MixLogisticAttnCoupling_{k}", first, context))
            halves, log_det = (second, first), log_det + up + more + change
        return finish(halves, noise, log_det)

    def _context(self, x: Tensor) -> Tensor:
        name = _NAMES[self.spec.deep][0]
        x = self._conv(x, f"{name}/proj", self.spec.context)
        for k in range(8 if self.spec.deep else 3):
            x = self._gate(x, f"{name}/c{k}")
            if self.spec.deep:
                x = self._attention(self._norm(x, f"{name}/dqln{k}"), f"{name}/dqattn{k}", f"{name}/pos_emb_dq", 4)
                x = self._norm(x, f"{name}/ln{k}")
        return x

    def _linear(self, x: Tensor, k: int, half: int) -> tuple[Tensor, Tensor]:
        channels, *sides = x.shape[1:]
        gain, bias = (self._take(f"Norm_{k}/norm{half}_{leaf}", *sides, channels).movedim(-1, 0) for leaf in "gb")
        x, log_det = x * gain.clamp_min(1e-10) + bias, summed(gain.clamp_min(1e-10).log()[None])
        if self.spec.deep:
            return x, log_det
        mix = self._take(f"Pointwise_{k}/W{half}", channels, channels)
        volume = torch.linalg.slogdet(mix).logabsdet * (sides[0] * sides[1])
        return torch.einsum("bchw,cd->bdhw", x, mix), log_det + volume

    def _raw(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        spec, channels, (_, begin, end) = self.spec, x.shape[1], _NAMES[self.spec.deep]
        x = self._conv(x, f"{name}/{begin}", spec.filters)
        for block in (f"{name}/block{k}" for k in range(spec.blocks)):
            x = self._norm(self._gate(x, f"{block}_conv", context), f"{block}_ln1")
            x = self._norm(self._attention(x, f"{block}_attn", f"{name}/pos_emb", spec.heads), f"{block}_ln2")
        x, units = both(x) if spec.deep else x, channels * (2 + 3 * spec.components)
        return self._conv(x, f"{name}/block{spec.blocks - 1}_{end}", units)

    def _gate(self, x: Tensor, name: str, context: Tensor | None = None) -> Tensor:
        channels, second = x.shape[1], self._conv
        h = self._conv(both(x), f"{name}_c1", channels)
        if context is not None:
            h, second = h + self._dense(both(context), f"{name}_a_proj", channels), self._dense
        return x + gated(second(both(h), f"{name}_c2", 2 * channels))

    def _attention(self, x: Tensor, name: str, position: str, heads: int) -> Tensor:
        channels, height, width = x.shape[1:]
        placed = x + self._take(position, height, width, channels).movedim(-1, 0)
        mixed = attend(self._dense(placed, f"{name}_proj1", 3 * channels), heads)
        return x + gated(self._dense(mixed, f"{name}_proj2", 2 * channels))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = (self._take(f"{name}_{leaf}", 1, 1, 1, x.shape[1]).flatten() for leaf in "gb")
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], gain, bias, 1e-5).movedim(-1, 1)

    def _dense(self, x: Tensor, name: str, units: int) -> Tensor:
        weight, bias = self._take(f"{name}_W", x.shape[1], units), self._take(f"{name}_b", units)
        return F.conv2d(x, weight.t()[:, :, None, None], bias)

    def _conv(self, x: Tensor, name: str, units: int) -> Tensor:
        shape, bias = (3, 3, x.shape[1], units), self._take(f"{name}_b", units)
        if not self.spec.deep:  # the first axis is the width: the published code has the image's axes so
            return F.conv2d(x, self._take(f"{name}_W", *shape).permute(3, 2, 1, 0), bias, padding=1)
        weight = self._take(f"{name}_V", *shape)  # weight normalisation, arXiv:1602.07868
        weight = weight * (weight.square().sum((0, 1, 2)).clamp_min(1e-12).rsqrt() * self._take(f"{name}_g", units))
        return F.conv2d(x, weight.permute(3, 2, 0, 1), bias, padding=1)

    def _take(self, name: str, *shape: int) -> Tensor:
        name = f"params/{name}"  # flax's own
        if name not in self._parameters:
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        return self.get_parameter(name)


@attrs.frozen(kw_only=True)
class ScoreFlow(FlowPP):
    """The size of a published flow, for ImageNet-32 if ``deep``, else for CIFAR-10; no file tells ``heads``."""

    module: ClassVar[type[nn.Module]] = PublishedFlow

    deep: bool = param(False, "the class for ImageNet-32")


def configured(weights: Mapping[str, Tensor], source: Path) -> Config:
    """The configuration of the dequantiser with the ``weights`` of the file ``source``; ``FileError`` if it is none."""
    deep, coupling = "params/DeepProcessor_0/proj_b" in weights, "params/MixLogisticAttnCoupling_0/"
    processor, _, end = _NAMES[deep]
    size = {"couplings": sum(name.endswith("/norm0_g") for name in weights), "deep": deep}
    size["blocks"] = len({name[0] for each in weights if (name := re.findall(rf"^{coupling}block\d+_", each))})
    try:
        height, half, channels = weights["params/Norm_0/norm0_g"].shape
        (outputs,) = weights[f"{coupling}block{size['blocks'] - 1}_{end}_b"].shape
        shapes = (weights[name].shape for name in (f"{coupling}pos_emb", f"params/{processor}/proj_b"))
        (*_, size["filters"]), (size["context"],) = shapes
        size["components"] = (outputs // channels - 2) // 3
        if size["couplings"] * size["blocks"] > len(weights):
            raise ValueError("it has more couplings and blocks than arrays")
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise FileError(f"{source} is no dequantiser of ScoreFlow for CIFAR-10 or ImageNet-32: {error}") from error
    return Config(ModelConfig(Spec(PUBLISHED, size), Spec("vp"), (channels, height, 2 * half), levels=256))
