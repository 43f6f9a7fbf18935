"""What a network knows of its events besides the noise: the class of each, and channels that it reads beside them."""

import math
from collections.abc import Mapping

import attrs
import torch
from attrs.validators import ge
from torch import Tensor, nn
from scoresde_core import param
from scoresde_run import Network


@attrs.frozen(kw_only=True)
class KnowingNetwork(Network):
    """The options of networks on events (C, *sides) that can know a class, and a tensor with the same sides."""

    cond_channels: int = param(0, "channels of an image, signal or volume that the network reads beside x", ge(0))
    cond: str = param("image", "what is known under this name is that image")
    classes: int = param(0, "number of classes that the blocks know, added to the label; 0: none", ge(0))

    def takes(self, shape: tuple[int, ...]) -> Mapping[str, int | tuple[int, ...]]:
        """The class of an event, and its ``cond`` (cond_channels, *sides)."""
        image = {self.cond: (self.cond_channels, *shape[1:])} if self.cond_channels else {}
        return {**({"class": self.classes} if self.classes else {}), **image}

    def beside(self, x: Tensor, image: Tensor | None) -> Tensor:
        """``x`` (B, C, *sides) beside its checked condition (B or 1, cond_channels, *sides), as one tensor."""
        given, wanted = 0 if image is None else image.shape[1], self.cond_channels
        if given != wanted:
            why = f"this network needs {self.cond!r}, an image of {wanted} channels, got {given}"
            raise ValueError(f"{why}: build it with cond_channels={given} or give {self.cond!r} with {wanted} channels")
        if image is None:
            return x
        if image.shape[2:] != x.shape[2:] or len(image) not in (1, len(x)):
            told = f"{self.cond!r} of shape {tuple(image.shape)} does not fit x of shape {tuple(x.shape)}"
            raise ValueError(f"{told}: give one of that size per image, or one for all")
        return torch.cat([x, image.to(x.dtype).expand(len(x), *image.shape[1:])], 1)


class ClassEmbedding(nn.Embedding):
    """Classes (B,), -1 for none, to (B, width); None is none for all. Zero at first.

    Times sqrt(width), as in Vaswani et al. 2017 (arXiv:1706.03762, Section 3.4), or Adam learns it slowly.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes + 1, width)  # the last is that of no class
        nn.init.zeros_(self.weight)

    def forward(self, input: Tensor | None) -> Tensor:
        last = self.num_embeddings - 1
        rows: Tensor = self.weight[last] if input is None else super().forward(input.where(input >= 0, last))
        return rows * math.sqrt(self.embedding_dim)
