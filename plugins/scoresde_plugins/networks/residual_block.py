"""The residual block of the U-Nets, in its two published forms.

    h   = Conv_0(resample(act(GroupNorm_0(x)))) + Dense_0(act(embedding))
    h   = Conv_1(Dropout(act(GroupNorm_1(h))))
    out = (shortcut(resample(x)) + h) [/ sqrt(2)]

``ddpm`` (Ho et al. 2020, arXiv:2006.11239) never resamples, and its shortcut is a NIN if the number of channels
changes. ``biggan`` (Brock et al. 2019, arXiv:1809.11096; Song et al. 2021, arXiv:2011.13456, Appendix H) may resample
both paths inside the block, and its shortcut is a 1x1 convolution if anything changes.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .layers import NIN, Activation, conv, dense, group_norm, merge


@attrs.frozen
class BlockStyle:
    """The options that all blocks of a network share; ``embedding`` is the embedding's length, None for none."""

    activation: Activation
    embedding: int | None
    biggan: bool
    dropout: float
    min_group: int
    scale: float
    rescale: bool


class ResidualBlock(nn.Module):
    """(B, in, H, W) and the activated embedding (B, E) or None -> (B, out, H', W'), H' by ``resample``."""

    def __init__(
        self, in_channels: int, out_channels: int, style: BlockStyle, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.style, self.resample = style, resample
        self.GroupNorm_0 = group_norm(in_channels, style.min_group)
        self.Conv_0 = conv(in_channels, out_channels)
        if style.embedding is not None:
            self.Dense_0 = dense(style.embedding, out_channels)
        else:
            self.register_load_state_dict_pre_hook(_drop_dense)  # type: ignore[no-untyped-call]
        self.GroupNorm_1 = group_norm(out_channels, style.min_group)
        self.Dropout_0 = nn.Dropout(style.dropout)
        self.Conv_1 = conv(out_channels, out_channels, scale=style.scale)
        self.changes = in_channels != out_channels or resample is not None
        if self.changes and style.biggan:
            self.Conv_2 = conv(in_channels, out_channels, 1)
        elif self.changes:
            self.NIN_0 = NIN(in_channels, out_channels)

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
            h += self.Dense_0(embedding)[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(activation(self.GroupNorm_1(h))))
        if self.changes:
            x = self.Conv_2(x) if self.style.biggan else self.NIN_0(x)
        return merge(x, h, self.style.rescale)


def _drop_dense(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Drop the label's layer, which published checkpoints of unconditional networks contain."""
    for name in ("weight", "bias"):
        state.pop(f"{prefix}Dense_0.{name}", None)
