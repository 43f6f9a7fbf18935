"""Specifications of U-Nets on images: the options that all of them share, and those of NCSN++.

Song et al. 2021, arXiv:2011.13456, Appendix H, changed the U-Net of DDPM in five ways (FIR filters, rescaled sums,
BigGAN blocks, more blocks, progressive growing); each is an option here, and any combination of them builds. Parameters
have the names of the published configurations.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from attrs import validators as check
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.network import Network

from .layers import NONLINEARITIES


@attrs.frozen(kw_only=True)
class ImageUNet(Network):
    """What the U-Nets on images have in common; ``ncsnpp`` and ``ddpm`` are its two forms."""

    nf: int = param(128, "channels of the finest level", check.ge(4))
    ch_mult: tuple[int, ...] = param((1, 2, 2, 2), "channels of each level, in nf", check.min_len(1), converter=tuple)
    num_res_blocks: int = param(4, "residual blocks of a level on the way down; one more going up", check.ge(1))
    attn_resolutions: tuple[int, ...] = param(
        (16,), "levels with attention, by the shorter side of their images; the middle always has it", converter=tuple
    )
    dropout: float = param(0.1, "dropout inside the blocks", check.and_(check.ge(0), check.lt(1)))
    resamp_with_conv: bool = param(True, "ddpm blocks: a convolution at each change of resolution")
    conditional: bool = param(True, "whether the blocks are told the label")
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = param("swish", "activation", check.in_(NONLINEARITIES))
    scale_by_sigma: bool | None = param(
        None, "divide the output by sigma; null: where the output is a score and the label tells sigma"
    )
    sigma_min: float = param(0.01, "smallest noise scale behind reverse_index, as in the VE SDE", check.gt(0))
    sigma_max: float = param(50.0, "largest noise scale behind reverse_index, as in the VE SDE", check.gt(0))
    centered: bool = param(True, "data lie in [-1, 1]; false: in [0, 1], mapped to [-1, 1] by the network")
    cond_channels: int = param(0, "channels of cond_image, an image that is seen beside x, as it is", check.ge(0))
    recompute: bool = param(
        False, "training keeps the inputs of the blocks alone, and computes the blocks again going back: saves memory"
    )

    def __attrs_post_init__(self) -> None:
        if min(self.ch_mult) < 1:
            raise ValueError(f"every level needs channels: ch_mult={list(self.ch_mult)} must hold numbers from 1 up")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} must be smaller than sigma_max={self.sigma_max}")
        if self.scale_by_sigma and not self._tells_sigma:
            raise ValueError(
                f"scale_by_sigma needs parameterisation=score (here {self.parameterisation}) and a label that tells "
                f"sigma, sigma or reverse_index (here {self.label}): change these or leave scale_by_sigma out"
            )

    @property
    def _tells_sigma(self) -> bool:
        return self.parameterisation == "score" and self.label in ("sigma", "reverse_index")

    @property
    def divides_by_sigma(self) -> bool:
        """``scale_by_sigma``, settled."""
        return self._tells_sigma if self.scale_by_sigma is None else self.scale_by_sigma

    def sigma_table(self) -> Tensor:
        """The geometric noise scales of discrete labels, (scales,), float32; 0 is the largest."""
        ends = math.log(self.sigma_max), math.log(self.sigma_min)
        return torch.linspace(*ends, self.scales, dtype=torch.float64).exp().float()

    def check_size(self, height: int, width: int) -> None:
        """``ValueError`` for images that cannot be halved from level to level."""
        step = 2 ** (len(self.ch_mult) - 1)
        if height % step or width % step:
            padded = "x".join(str(-(-side // step) * step) for side in (height, width))
            raise ValueError(
                f"images of {height}x{width} do not fit {len(self.ch_mult)} levels (ch_mult={list(self.ch_mult)}), "
                f"which need sides divisible by {step}: pad them to {padded} or take fewer levels"
            )

    def attended(self, height: int, width: int) -> list[bool]:
        """Which levels have attention; ``ValueError`` where one that was asked for does not occur."""
        sides = [min(height, width) >> level for level in range(len(self.ch_mult))]
        absent = sorted(set(self.attn_resolutions) - set(sides))
        if absent:
            raise ValueError(
                f"attn_resolutions={list(self.attn_resolutions)} never meets {', '.join(map(str, absent))}: the levels "
                f"of {height}x{width} images have {', '.join(map(str, sides))}; take some of these, or [] for none"
            )
        return [side in self.attn_resolutions for side in sides]

    def _image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        if len(shape) != 3:
            raise ValueError(
                f"a U-Net needs images (C, H, W), got events of shape {tuple(shape)}: take another network"
            )
        channels, height, width = shape
        self.check_size(height, width)
        self.attended(height, width)
        return channels, height, width


@attrs.frozen(kw_only=True)
class UNetSpec(ImageUNet):
    """Every option of the U-Net; ``ncsnpp`` gives all of them to the user."""

    resblock_type: Literal["biggan", "ddpm"] = param(
        "biggan", "biggan: blocks that resample inside; ddpm: layers of their own", check.in_(["biggan", "ddpm"])
    )
    fir: bool = param(True, "FIR filters at each change of resolution; false: means and nearest neighbours")
    fir_kernel: tuple[float, ...] = param(
        (1.0, 3.0, 3.0, 1.0), "taps of the FIR filter, in one direction", check.min_len(2), converter=tuple
    )
    progressive: Literal["none", "output_skip", "residual"] = param(
        "none", "pyramid beside the way up", check.in_(["none", "output_skip", "residual"])
    )
    progressive_input: Literal["none", "input_skip", "residual"] = param(
        "residual", "pyramid beside the way down", check.in_(["none", "input_skip", "residual"])
    )
    progressive_combine: Literal["sum", "cat"] = param(
        "sum", "input_skip: add the pyramid to the features, or stack them", check.in_(["sum", "cat"])
    )
    skip_rescale: bool = param(True, "divide each residual sum by sqrt(2)")
    embedding_type: Literal["fourier", "positional"] | None = param(
        None, "null: fourier for label=sigma, else positional", check.in_([None, "fourier", "positional"])
    )
    fourier_scale: float = param(16.0, "standard deviation of the Fourier frequencies", check.gt(0))
    trainable_embedding: bool = param(False, "train the Fourier frequencies")
    init_scale: float = param(0.0, "variance scale of the last layer of each branch; 0: almost zero", check.ge(0))
    min_group: int = param(4, "fewest channels of a GroupNorm group, of which there are 32 at most", check.ge(1))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if sum(self.fir_kernel) <= 0:
            raise ValueError(f"the taps of fir_kernel={list(self.fir_kernel)} must have a positive sum")
        if self.embedding == "fourier" and self.label in ("index", "reverse_index"):
            raise ValueError(
                f"Fourier features need a continuous label, not {self.label}: take embedding_type=positional"
            )

    @property
    def embedding(self) -> str:
        """``embedding_type``, settled."""
        return self.embedding_type or ("fourier" if self.label == "sigma" else "positional")
