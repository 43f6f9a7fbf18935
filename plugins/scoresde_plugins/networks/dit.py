"""DiT, a transformer over the patches of an event (Peebles & Xie 2023, arXiv:2212.09748).

An event (C, *sides), a signal, an image or a volume, is cut into patches. Each is a token of ``width`` numbers: a
linear function of the patch, plus sines and cosines of its place along every axis. With c(label, class) a block is

    h <- h + g_1 * Attention((1 + a_1) * LN(h) + b_1),    h <- h + g_2 * Perceptron((1 + a_2) * LN(h) + b_2)

with (b_1, a_1, g_1, b_2, a_2, g_2) = M act(c), and after the last one W ((1 + a) * LN(h) + b) are the patches of the
output. M and W are zero at first (adaLN-zero): every block starts as the identity, and the network as zero.
"""

import itertools
import math
from typing import ClassVar

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge
from torch import Tensor, nn
from scoresde_core import param
from scoresde_core.shapes import expand
from .known import ClassEmbedding, KnowingNetwork
from .layers import RECOMPUTE_HELP, dense, positional_embedding, run

STEPS = {"t": 999.0, "log_ratio": 999.0, "sigma": 249.75}  # makes it, or log sigma, run over about a thousand


@attrs.frozen(kw_only=True)
class DiT(KnowingNetwork):
    """A transformer over the patches of signals (C, L), images (C, H, W) or volumes (C, H, W, D); labels (B,).

    The defaults are the published DiT-S/2. With label ``sigma`` it reads x / sqrt(1 + sigma^2) and log sigma, and
    divides its output by sigma if that is a score.
    """

    example: ClassVar = {"width": 32, "depth": 2, "heads": 2}

    patch: int | tuple[int, ...] = param(2, "sides of a patch, divisors of the event's: one number, or one an axis")
    width: int = param(384, "numbers of a token", ge(16))
    depth: int = param(12, "blocks", ge(1))
    heads: int = param(6, "heads of the attention, a divisor of width", ge(1))
    recompute: bool = param(False, RECOMPUTE_HELP)

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}: choose a divisor")

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        patch = self.patch if isinstance(self.patch, tuple) else (self.patch,) * len(shape[1:])
        cuts = [0 < p <= side and side % p == 0 for side, p in zip(shape[1:], patch, strict=False)]
        if not 1 <= len(shape[1:]) == len(patch) <= 3 or not all(cuts):
            raise ValueError(f"patch={self.patch} must divide the one to three sides of {tuple(shape)}: give divisors")
        return DiTModule(self, tuple(shape), patch)


class DiTModule(nn.Module):
    """The network of a :class:`DiT` specification."""

    positions: Tensor

    def __init__(self, spec: DiT, shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
        super().__init__()
        self.spec, self.shape, self.patch, width, size = spec, shape, patch, spec.width, math.prod(patch)
        self.grid = tuple(side // p for side, p in zip(shape[1:], patch, strict=True))
        self.register_buffer("positions", places(self.grid, width), persistent=False)
        self.begin = dense((shape[0] + spec.cond_channels) * size, width)
        self.embed = nn.Sequential(dense(width, width), nn.SiLU(), dense(width, width))
        self.class_embedding = ClassEmbedding(spec.classes, width) if spec.classes else None
        self.blocks = nn.ModuleList(Block(width, spec.heads) for _ in range(spec.depth))
        self.modulate, self.end = dense(width, 2 * width), dense(width, shape[0] * size)
        for layer in (self.modulate, self.end):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, label: Tensor, **known: Tensor) -> Tensor:
        """A tensor like ``x`` (B, *shape) for labels (B,), classes (B,) and ``cond`` (B, cond_channels, *sides)."""
        spec, sigma, log_sigma = self.spec, expand(label, x), self.spec.label == "sigma"
        if x.shape[1:] != self.shape:
            raise ValueError(f"this network reads events of {self.shape}, got {tuple(x.shape[1:])}: build another")
        if log_sigma:
            x, label = x * torch.rsqrt(1 + sigma.square()), label.log()
        steps = label * STEPS.get(spec.label, 1.0)
        told = 0 if self.class_embedding is None else self.class_embedding(known.get("class"))
        c = F.silu(self.embed(positional_embedding(steps, spec.width).to(self.positions.dtype)) + told)
        h = self.begin(patches(spec.beside(x, known.get(spec.cond)), self.patch)) + self.positions
        for block in self.blocks:
            h = run(block, h, c, recompute=spec.recompute)
        tokens = self.end(modulated(h, *self.modulate(c)[:, None].chunk(2, -1)))
        out = together(tokens.view(len(x), *self.grid, self.shape[0], *self.patch))
        return out / sigma if log_sigma and spec.parameterisation == "score" else out


class Block(nn.Module):
    """Attention among the tokens (B, N, width) and a perceptron on each, with gains and shifts from c (B, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.modulate = heads, dense(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        self.read, self.write = dense(width, 3 * width), dense(width, width)
        self.perceptron = nn.Sequential(dense(width, 4 * width), nn.GELU("tanh"), dense(4 * width, width))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift_1, gain_1, gate_1, shift_2, gain_2, gate_2 = self.modulate(c)[:, None].chunk(6, -1)
        parts = self.read(modulated(h, shift_1, gain_1)).unflatten(-1, (3, self.heads, -1))
        mixed = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))  # (B, heads, N, width / heads)
        h = h + gate_1 * self.write(mixed.transpose(1, 2).flatten(2))
        return h + gate_2 * self.perceptron(modulated(h, shift_2, gain_2))  # type: ignore[no-any-return]


def modulated(h: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
    """(1 + gain) * LN(h) + shift."""
    return (1 + gain) * F.layer_norm(h, h.shape[-1:], eps=1e-6) + shift


def patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(B, C, *sides) to tokens (B, N, C prod(patch)) in the order of their places, the last axis fastest."""
    for axis, p in enumerate(patch):
        x = x.unfold(2 + axis, p, p)
    return x.movedim(1, 1 + len(patch)).flatten(1 + len(patch)).flatten(1, -2)


def together(tokens: Tensor) -> Tensor:
    """The events (B, C, *sides) whose :func:`patches` these are, (B, *grid, C, *patch)."""
    axes = tokens.ndim // 2 - 1
    x = tokens.movedim(1 + axes, 1)
    for axis in range(axes):
        x = x.movedim(2 + axes, 3 + axis).flatten(2 + axis, 3 + axis)
    return x


def places(grid: tuple[int, ...], width: int) -> Tensor:
    """Sines and cosines of the places of a grid, (N, width): an equal part for each axis, and zeros for the rest."""
    where = torch.tensor(list(itertools.product(*map(range, grid))))
    part = width // len(grid)
    return F.pad(torch.cat([positional_embedding(axis, part) for axis in where.T], 1), (0, width - part * len(grid)))
