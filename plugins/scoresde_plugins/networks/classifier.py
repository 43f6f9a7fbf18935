"""Networks that classify noisy events, none of which gives a score, and the published one."""

import math
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import deep_iterable, ge, gt, in_, optional
from torch import Tensor, nn
from torch.nn import functional as F
from scoresde_core import SDE, Level, param
from scoresde_core.shapes import per_row
from scoresde_run import Network, NoisyClassifier


@attrs.frozen(eq=False)
class NetworkClassifier(NoisyClassifier):
    """A module ``forward(x, sigma)`` -> logits (B, classes), for x_0 + sigma eps.

    It receives x_t / alpha with noise of scale sigma / alpha, so one network serves every Gaussian-path SDE. If it was
    trained on scale x + shift instead of x, it receives that, with scale times the noise.
    """

    network: nn.Module
    classes: int = attrs.field()
    scale: float = 1.0
    shift: float = 0.0
    autocast: torch.dtype | None = None
    sde: Any = None  # the process that it is trained under; a guide needs none

    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        ratio = per_row(level.sigma / level.alpha, x) * self.scale
        seen = x / level.alpha * self.scale + self.shift
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            logits: Tensor = self.network(seen, ratio)
        return logits.to(x.dtype).log_softmax(1)


@attrs.frozen(kw_only=True, slots=False)  # no slots: it is mixed into networks that have slots
class ClassifierNetwork(Network):
    """A network whose output is logits: a guide for other networks, never a score model."""

    parameterisation: Literal["logits"] = attrs.field(default="logits", init=False)
    label: Literal["sigma"] = param("sigma", "the noise scale", in_(("sigma",)))
    scales: int = param(1000, "unused: the noise scale is continuous", ge(2))
    classes: int = param(10, "number of classes", ge(2))

    def view(self, module: nn.Module, sde: SDE, shape: tuple[int, ...], **how: Any) -> NetworkClassifier:
        return NetworkClassifier(module, self.classes, autocast=how.get("autocast"), sde=sde)


CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)
FREQUENCIES, FOURIER_SCALE = 128, 16.0
POOLINGS = ("mean", "none")
optional_tuple = attrs.converters.optional(tuple)


@attrs.frozen(kw_only=True)
class Classifier(ClassifierNetwork):
    """log p(y | x, sigma), x = x_0 + sigma eps, by a Wide ResNet (Song et al. 2021, arXiv:2011.13456, Appendix I).

    Its module gives logits (B, classes), not a tensor like ``x``. The defaults are WRN-28-10 (Zagoruyko & Komodakis
    2016, arXiv:1605.07146) for CIFAR-10, for images (C, H, W) of any size: 38.9 M parameters. Norms are by groups, not
    batches. Images are standardised by the channel statistics of the data, then each by its own mean and standard
    deviation. Noise enters as random Fourier features of log sigma, through two dense layers, as a shift in each block:

        sin(2 pi w log sigma), cos(2 pi w log sigma),    w ~ N(0, 16^2), 128 of them, fixed

    Shortcuts have no parameters: where a group widens, the input is mean-pooled and padded with zero channels.

    The logits read the mean of the last features over all positions, as published. With ``pooling=none`` that mean has
    its own weights at every position, which a small network needs under much noise (docs/classifiers.md says why); it
    then reads images only of the size it is built for.
    """

    example: ClassVar = {"blocks_per_group": 1, "multiplier": 1, "embedding": 16}

    blocks_per_group: int = param(4, "residual blocks in each of three groups", ge(1))
    multiplier: int = param(10, "width: the groups have 16, 32 and 64 times as many channels", ge(1))
    embedding: int = param(512, "units of the two layers that read the noise scale", ge(1))
    pooling: Literal["mean", "none"] = param(
        "mean", "input of the logits: the mean over positions, or all positions, for small networks", in_(POOLINGS)
    )
    mean: tuple[float, ...] | None = param(
        None, "channel means; null: CIFAR-10's for 3 channels, else 0", converter=optional_tuple
    )
    std: tuple[float, ...] | None = param(
        None,
        "channel standard deviations; null: CIFAR-10's for 3 channels, else 1",
        optional(deep_iterable(gt(0))),
        converter=optional_tuple,
    )

    def __attrs_post_init__(self) -> None:
        if self.multiplier > 8 and self.multiplier % 2:
            why = f"multiplier {self.multiplier} gives {16 * self.multiplier} channels"
            raise ValueError(f"{why}, which 32 norm groups do not divide: choose an even number, or at most 8")

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """Return the module for images of ``shape``, in [0, 1] unless ``mean`` and ``std`` are given."""
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"classifier reads images of shape (channels, height, width), not {tuple(shape)}")
        color = shape[0] == 3
        mean = self.mean if self.mean is not None else CIFAR10_MEAN if color else (0.0,) * shape[0]
        std = self.std if self.std is not None else CIFAR10_STD if color else (1.0,) * shape[0]
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != shape[0]:
                why = f"{name} has {len(values)} values for images of {shape[0]} channels: give one per channel"
                raise ValueError(why)
        return ClassifierModule(self, mean, std, *shape[1:])


class ClassifierModule(nn.Module):
    """The network of a :class:`Classifier` specification; x_t with alpha != 1 is given as x / alpha."""

    mean: Tensor
    std: Tensor
    frequencies: Tensor

    def __init__(self, spec: Classifier, mean: tuple[float, ...], std: tuple[float, ...], *size: int) -> None:
        super().__init__()
        self.pools = spec.pooling == "mean"
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))
        self.register_buffer("frequencies", torch.randn(FREQUENCIES) * FOURIER_SCALE)
        inner, outer = _dense(2 * FREQUENCIES, spec.embedding), _dense(spec.embedding, spec.embedding)
        self.embed = nn.Sequential(inner, nn.SiLU(), outer)
        self.begin_conv = _conv(len(mean), 16)
        self.blocks = nn.ModuleList()
        width = 16
        for group, widening in enumerate((16, 32, 64)):
            for block in range(spec.blocks_per_group):
                outputs, stride = widening * spec.multiplier, 2 if group and not block else 1
                share_norm = not group and not block
                self.blocks.append(WideBlock(width, outputs, stride, spec.embedding, share_norm=share_norm))
                width = outputs
        self.normalizer = _norm(width)
        positions = 1 if self.pools else math.prod(-(-side // 4) for side in size)
        self.head = nn.Linear(width * positions, spec.classes)
        bound = 1 / math.sqrt(spec.classes) / positions
        nn.init.uniform_(self.head.weight, -bound, bound)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Logits (B, classes) of images ``x`` (B, C, H, W) with noise of scale ``label`` (B,), positive."""
        x = (x - self.mean) / self.std
        spread, centre = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)
        h = (x - centre) / spread.clamp_min(1 / math.sqrt(x[0].numel()))
        phase = 2 * math.pi * label.log()[:, None] * self.frequencies
        noise = F.silu(self.embed(torch.cat([phase.sin(), phase.cos()], 1)))
        h = self.begin_conv(h)
        for block in self.blocks:
            h = block(h, noise)
        h = F.relu(self.normalizer(h))
        return self.head(h.mean((2, 3)) if self.pools else h.flatten(1))  # type: ignore[no-any-return]


class WideBlock(nn.Module):
    """shortcut(x) + conv(relu(norm(conv(relu(norm(x))) + dense(noise)))).

    With ``share_norm`` the shortcut also starts from relu(norm(x)).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, embedding: int = 512, *, share_norm: bool) -> None:
        super().__init__()
        self.normalize1 = _norm(inputs)
        self.conv1 = _conv(inputs, outputs, stride)
        self.dense = _dense(embedding, outputs)
        self.normalize2 = _norm(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.stride, self.fill, self.share_norm = stride, outputs - inputs, share_norm

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(B, inputs, H, W) with ``noise`` (B, embedding) -> (B, outputs, H / s, W / s), rounded up."""
        h = F.relu(self.normalize1(x))
        if self.share_norm:
            x = h
        if self.stride == 2:  # "same" padding, which pads the end of each side first
            height, width = h.shape[2:]
            h = F.pad(h, (width % 2, 1, height % 2, 1))
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        h = self.conv1(h) + self.dense(noise)[:, :, None, None]
        h = self.conv2(F.relu(self.normalize2(h)))
        return h + F.pad(x, (0, 0, 0, 0, 0, self.fill))  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-5)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias; at stride 2 the caller pads."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if stride == 1 else 0, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _dense(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with LeCun's truncated normal weights, of variance 1 / inputs, and zero bias."""
    dense = nn.Linear(inputs, outputs)
    std = 1 / math.sqrt(inputs) / 0.87962566  # the standard deviation of N(0, 1) cut at two
    nn.init.trunc_normal_(dense.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(dense.bias)
    return dense
