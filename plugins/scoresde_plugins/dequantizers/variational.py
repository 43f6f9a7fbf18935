"""Variational dequantisation (Ho et al. 2019, arXiv:1902.00275): noise u in (0, 1) given an image v, by Flow++'s flow.

    eps ~ N(0, I)  ->  even, odd columns  ->  K x [scale and shift, 1 x 1 convolution, coupling, swap]  ->  sigmoid = u
    log q(u | v) = log N(eps; 0, I) - log |det du/deps|                                               (Section 3.1)

A coupling transforms one half given the other, h, and features c of the image, entry by entry:

    y = logit(F(x; pi, mu, s)) exp(a) + b,   F = sum_k pi_k sigmoid((x - mu_k) / s_k),   (pi, mu, s, a, b) = net(h, c)

with gated convolutions and self-attention in the net. Where ScoreFlow's code (arXiv:2101.09258) starts from statistics
of the first batch, scale and shift start at the identity here: their input is standard normal by construction.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor, nn
from torch.nn import functional as F
from scoresde_core import Draw, FileError, Spec, build, param
from scoresde_run import Config, Dequantizer, Network
from scoresde_run.models import checkpoint
from scoresde_run.models.config import ModelConfig

_EDGE = 2.0**-16
"""The distance of u from 0 and 1, where float32 grey levels would round into the next cell."""

Halves = tuple[Tensor, Tensor]


@attrs.frozen(kw_only=True)
class FlowPP(Network):
    """The size of the flow; the defaults are those for CIFAR-10.

    Its module answers ``forward(images, noise) -> (u, log q(u | images))`` and gives no score: only
    ``scoresde train-dequantizer`` trains it.
    """

    filters: int = param(96, "channels of the couplings' networks", ge(1))
    couplings: int = param(4, "coupling layers", ge(1))
    blocks: int = param(2, "gated convolutions with attention in each coupling", ge(1))
    components: int = param(32, "logistics in each mixture", ge(1))
    heads: int = param(4, "heads of the attention", ge(1))
    context: int = param(32, "channels of the image features", ge(1))

    def __attrs_post_init__(self) -> None:
        if self.filters % self.heads:
            raise ValueError(f"filters must be a multiple of heads, got {self.filters} and {self.heads}")

    def build(self, shape: tuple[int, ...]) -> "FlowPPModule":
        """Return the flow for images of ``shape``, of an even width."""
        if len(shape) != 3 or shape[2] % 2:
            raise ValueError(f"flowpp splits images into even and odd columns, and {tuple(shape)} has no even width")
        return FlowPPModule(self, shape)


class FlowPPModule(nn.Module):
    """q(u | v) as a flow of standard normal noise."""

    def __init__(self, spec: FlowPP, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = shape
        half = (height, width // 2)
        self.context = nn.Sequential(
            nn.Conv2d(channels, spec.context, 3, padding=1), *(Gated(spec.context) for _ in range(3))
        )
        self.layers = nn.ModuleList(Layer(spec, channels, half) for _ in range(spec.couplings))

    def forward(self, images: Tensor, noise: Tensor) -> Halves:
        """uint8 ``images`` (B, C, H, W) and standard normal ``noise`` -> u like ``noise``, and log q (B,) float64."""
        context = self._context(images, noise)
        halves, log_det = split(noise), noise.new_zeros(len(noise), dtype=torch.float64)
        for layer in self.layers:
            halves, change = layer(halves, context)
            log_det = log_det + change
        logits = merge(halves)
        u = logits.sigmoid()
        log_det = log_det + _sum(F.logsigmoid(logits) + F.logsigmoid(-logits))
        log_normal = -0.5 * (_sum(noise.square()) + noise[0].numel() * math.log(2 * math.pi))
        return u.clamp(_EDGE, 1 - _EDGE), log_normal - log_det

    def _context(self, images: Tensor, like: Tensor) -> Tensor:
        """Return features of the image at the width of a half: neighbouring columns become channels."""
        features: Tensor = self.context(images.to(like) / 127.5 - 1)
        return torch.cat(split(features), 1)


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
        """Return the transformed halves and the log determinant (B,)."""
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
        self.components, height, width = spec.components, *half
        self.position = nn.Parameter(0.01 * torch.randn(1, spec.filters, height, width))
        self.begin = nn.Conv2d(channels + 2 * spec.context, spec.filters, 3, padding=1)
        self.blocks = nn.ModuleList()
        for _ in range(spec.blocks):
            self.blocks += [Gated(spec.filters), Attention(spec.filters, spec.heads)]
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
        """Return y like ``x``, and the log determinant (B,)."""
        mixture, a, b = self._mixture(other, context)
        below, above, density = _mixture_logs(x, *mixture)
        logit = below - above
        return logit * a.exp() + b, _sum(density - below - above + a)

    def _mixture(self, other: Tensor, context: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Return (log pi, mu, log s), each (K, *shape), then a and b like ``other``."""
        h = self.begin(torch.cat([other, context], 1)) + self.position
        for block in self.blocks:
            h = block(h)
        raw = self.end(h).unflatten(1, (other.shape[1], -1)).movedim(2, 0)
        weights, means, log_scales = raw[2:].chunk(3)
        return (weights.log_softmax(0), means, log_scales.clamp_min(-7)), raw[0].tanh(), raw[1]


class Gated(nn.Module):
    """Layer norm of x plus a gated 3 x 3 convolution of it (Flow++'s GatedConv)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.second(_both(self.first(_both(x)))).chunk(2, 1)
        result: Tensor = self.norm(x + value * gate.sigmoid())
        return result


class Attention(nn.Module):
    """Layer norm of x plus gated self-attention over all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3) for part in self.project(x).chunk(3, 1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(x.shape)
        out, gate = self.gate(mixed).chunk(2, 1)
        result: Tensor = self.norm(x + out * gate.sigmoid())
        return result


def split(x: Tensor) -> Halves:
    """Return even and odd columns of (B, C, H, W)."""
    return x[..., 0::2], x[..., 1::2]


def merge(halves: Halves) -> Tensor:
    """Invert :func:`split`."""
    return torch.stack(halves, -1).flatten(-2)


def _mixture_logs(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log F(x), log(1 - F(x)) and the log density of a mixture of logistics."""
    z = (x - means) * (-log_scales).exp()
    low, high = F.logsigmoid(z), F.logsigmoid(-z)
    terms = (low, high, low + high - log_scales)
    below, above, density = ((log_weights + term).logsumexp(0) for term in terms)
    return below, above, density


def _both(x: Tensor) -> Tensor:
    """Return the ELU of x and of -x, as channels."""
    return F.elu(torch.cat([x, -x], 1))


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1, dtype=torch.float64)


NAME = "flowpp"
"""The network's name in the configuration of a trained dequantiser."""


def _example(folder: Path) -> dict[str, Any]:
    """Write a small untrained flow, for the conformance suite."""
    size: dict[str, Any] = {"filters": 4, "couplings": 2, "blocks": 1, "components": 2, "heads": 2, "context": 4}
    config = Config(ModelConfig(Spec(NAME, size), Spec("vp"), (1, 2, 2)))
    checkpoint.save(folder / "model", config, FlowPP(**size).build((1, 2, 2)).state_dict())
    return {"checkpoint": str(folder / "model")}


@attrs.frozen
class VariationalDequantizer(Dequantizer):
    """v + u with u from a flow trained by ``scoresde train-dequantizer``, with its averaged weights."""

    example: ClassVar = staticmethod(_example)

    checkpoint: str = param(help="folder of a train-dequantizer run, or of one of its models")
    model: Path = attrs.field(init=False, repr=False)
    """The model's own folder: for a run, the newest."""
    digest: str = attrs.field(init=False)
    """The digest of its weights, which determine the results, unlike their path."""

    def __attrs_post_init__(self) -> None:
        found = checkpoint.read(Path(self.checkpoint))
        object.__setattr__(self, "model", found.folder)
        object.__setattr__(self, "digest", found.digest())
        if found.config.model.network.name != NAME:
            raise ValueError(
                f"{self.checkpoint} contains a {found.config.model.network.name}, not a dequantiser: "
                "train one with scoresde train-dequantizer"
            )

    @torch.no_grad()
    def dequantize(self, images: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        eps = noise()
        module, shape = _load(self.model, self.digest, eps.device, eps.dtype)
        if tuple(images.shape[1:]) != shape:
            raise FileError(
                f"the dequantiser {self.checkpoint} is for images of shape {list(shape)}, not {list(images.shape[1:])}"
            )
        u, log_q = module(images, eps)
        return images.to(u) + u, log_q


@lru_cache(maxsize=2)
def _load(folder: Path, digest: str, device: torch.device, dtype: torch.dtype) -> tuple[FlowPPModule, tuple[int, ...]]:
    found = checkpoint.read(folder)
    if found.digest() != digest:
        raise FileError(f"the weights in {folder} were replaced while in use: start again")
    spec: FlowPP = build(FlowPP, dict(found.config.model.network.params), "the dequantiser")
    module = spec.build(found.config.model.shape)
    weights, averages = found.states()
    report = checkpoint.mismatches(module.state_dict(), weights | averages)
    if report:
        raise FileError(f"the weights in {folder} do not fit its configuration: {checkpoint.summary(report)}")
    module.load_state_dict(weights | averages)
    return module.eval().requires_grad_(False).to(device, dtype), found.config.model.shape
