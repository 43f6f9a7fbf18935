"""The U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239, Appendix B).

It is the U-Net of NCSN++ without its additions: no filters, pyramids or rescaled sums, separate layers at each
change of resolution, and GroupNorm with 32 groups however few channels they have.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs import validators as check

from scoresde_core.components import param

from .ncsnpp import NCSNpp
from .unet import UNet
from .unet_spec import ImageUNet


@attrs.frozen(kw_only=True)
class DDPM(ImageUNet):
    """The U-Net of Ho et al. 2020, arXiv:2006.11239; ``conditional=false`` omits the label."""

    example: ClassVar = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}

    num_res_blocks: int = param(2, "residual blocks per level going down; one more going up", check.ge(1))

    def build(self, shape: tuple[int, ...]) -> UNet:
        """Return the U-Net for images (C, H, W), H and W divisible by 2^(levels - 1)."""
        shared = {field.name: getattr(self, field.name) for field in attrs.fields(ImageUNet)}
        return NCSNpp(
            **shared,
            resblock_type="ddpm",
            fir=False,
            progressive_input="none",
            skip_rescale=False,
            embedding_type="positional",
            min_group=1,
        ).build(shape)
