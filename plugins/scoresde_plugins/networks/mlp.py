"""A residual perceptron for points in the plane and other small events.

    h_0 = W x,    h_{k+1} = h_k + V_k act((1 + a_k(u)) * (U_k h_k) + b_k(u)),    output = V act(h_depth)

``u`` is the label scaled to order one: t itself, a step number over the largest one, or log(sigma) / 4. Sinusoidal
(Vaswani et al. 2017, arXiv:1706.03762, Section 3.5) or random Fourier features (Tancik et al. 2020, arXiv:2006.10739)
of u pass through one hidden layer and set the gain a_k and the shift b_k of every block: the score of a Gaussian is x
times a function of time, which needs a gain. With the noise scale as its label (``label=sigma``), the network also
divides its input by sqrt(data_std^2 + sigma^2) (Karras et al. 2022, arXiv:2206.00364, Table 1), which VE needs.
"""

import math
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, gt, in_
from torch import Tensor, nn
from scoresde_core import param
from scoresde_run import Network
from .classifier import ClassifierNetwork
from .known import ClassEmbedding

ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}
EMBEDDINGS = ("sinusoidal", "fourier")


@attrs.frozen(kw_only=True)
class MLP(Network):
    """A residual perceptron over flattened events of any shape; the defaults learn mixtures in the plane in seconds."""

    width: int = param(128, "units of every hidden layer", ge(1))
    depth: int = param(3, "residual blocks", ge(1))
    activation: Literal["silu", "gelu", "elu", "relu", "tanh"] = param("silu", "non-linearity", in_(ACTIVATIONS))
    embedding: Literal["sinusoidal", "fourier"] = param("sinusoidal", "features of the label", in_(EMBEDDINGS))
    features: int = param(64, "number of features of the label, even", ge(4))
    fourier_scale: float = param(1.0, "standard deviation of the frequencies of Fourier features, in turns", gt(0))
    data_std: float = param(1.0, "standard deviation of the data, used with label=sigma only", gt(0))
    classes: int = param(0, "number of classes that the blocks know, added to the label; 0: none", ge(0))
    cond_shape: tuple[int, ...] = param((), "shape of a tensor that the network reads beside x; []: none")
    cond: str = param("y", "what is known under this name is that tensor")

    def __attrs_post_init__(self) -> None:
        if self.features % 2:
            raise ValueError(f"features must be even, half sines and half cosines, got {self.features}")

    def takes(self, shape: tuple[int, ...]) -> Mapping[str, int | tuple[int, ...]]:
        """The class of an event, and the tensor ``cond`` (*cond_shape)."""
        classes: dict[str, int | tuple[int, ...]] = {"class": self.classes} if self.classes else {}
        return classes | ({self.cond: tuple(self.cond_shape)} if self.cond_shape else {})

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        return MLPModule(self, shape, shape)


@attrs.frozen(kw_only=True)
class MLPClassifier(ClassifierNetwork, MLP):
    """The same perceptron with logits (B, classes) as its output and the noise scale as its label."""

    def takes(self, shape: tuple[int, ...]) -> Mapping[str, int | tuple[int, ...]]:
        return {}

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        return MLPModule(self, shape, (self.classes,))


class MLPModule(nn.Module):
    """The network of an :class:`MLP` specification."""

    frequencies: Tensor

    def __init__(self, spec: MLP, shape: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        super().__init__()
        if not shape or min(shape) < 1:
            raise ValueError(f"mlp reads events with at least one entry, not of shape {tuple(shape)}")
        self.outputs = outputs
        self.label, self.data_variance = spec.label, spec.data_std**2
        last = spec.scales - 1
        self.unit = {"time": 1 / 999, "index": 1 / last, "reverse_index": 1 / last, "sigma": 0.25}.get(spec.label, 1.0)
        half, act = spec.features // 2, ACTIVATIONS[spec.activation]
        if spec.embedding == "fourier":
            frequencies = 2 * math.pi * spec.fourier_scale * torch.randn(half)
        else:  # DDPM's: periods from 2 pi to 2 pi 10^4 steps, of a thousand steps
            frequencies = 999 * torch.logspace(0, -4, half)
        self.register_buffer("frequencies", frequencies)
        self.embed = nn.Sequential(nn.Linear(spec.features, spec.width), act())
        takes = spec.takes(shape)
        self.class_embedding = ClassEmbedding(spec.classes, spec.width) if "class" in takes else None
        self.cond = spec.cond if spec.cond in takes else None
        self.begin = nn.Linear(math.prod(shape) + (math.prod(spec.cond_shape) if self.cond else 0), spec.width)
        self.blocks = nn.ModuleList(Block(spec.width, act()) for _ in range(spec.depth))
        self.end = nn.Sequential(act(), nn.Linear(spec.width, math.prod(outputs)))

    def forward(self, x: Tensor, label: Tensor, **known: Tensor) -> Tensor:
        """A tensor like ``x`` (B, ...) for labels (B,), or the logits (B, classes) of a classifier."""
        flat = x.flatten(1)
        if self.label == "sigma":
            flat = flat * torch.rsqrt(self.data_variance + label.square())[:, None]
            label = label.log()
        phase = (label * self.unit)[:, None] * self.frequencies
        noise = self.embed(torch.cat([phase.sin(), phase.cos()], 1))
        if self.class_embedding is not None:
            noise = noise + self.class_embedding(known.get("class"))
        if self.cond:
            flat = torch.cat([flat, known[self.cond].to(flat).flatten(1).expand(len(x), -1)], 1)
        h = self.begin(flat)
        for block in self.blocks:
            h = block(h, noise)
        result: Tensor = self.end(h)
        return result.view(len(x), *self.outputs)


class Block(nn.Module):
    """h + V act((1 + a) * (U h) + b), with gain a and shift b linear in the embedded label."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.modulate = (nn.Linear(width, n * width) for n in (1, 1, 2))
        self.act = act

    def forward(self, h: Tensor, noise: Tensor) -> Tensor:
        gain, shift = self.modulate(noise).chunk(2, 1)
        return h + self.second(self.act((1 + gain) * self.first(h) + shift))  # type: ignore[no-any-return]
