"""NCSN++ and DDPM++: the U-Net of Song et al. 2021, arXiv:2011.13456, Appendix H, with all options of its search."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .unet import UNet
from .unet_spec import UNetSpec


@attrs.frozen(kw_only=True)
class NCSNpp(UNetSpec):
    """NCSN++ and DDPM++ (Song et al. 2021, arXiv:2011.13456, Appendix H): images (B, C, H, W), labels (B,).

    NCSN++ for 32 pixels (the defaults): fir, biggan blocks, progressive_input=residual. For 256 and 1024 pixels:
    progressive=output_skip, progressive_input=input_skip. DDPM++: fir=false, progressive_input=none.

        VP, sub-VP     parameterisation=noise   label=time            positional embedding
        VP, discrete   parameterisation=noise   label=index           positional embedding
        VE             parameterisation=score   label=sigma           Fourier features of log sigma, output / sigma
        VE, discrete   parameterisation=score   label=reverse_index   positional embedding, output / sigma

    The last column follows from the two before it unless ``embedding_type`` and ``scale_by_sigma`` are given. Sides
    must be divisible by 2^(levels - 1). ``cond_image`` (B, cond_channels, H, W) conditions on an image.
    """

    example: ClassVar = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}

    def build(self, shape: tuple[int, ...]) -> UNet:
        """Return the U-Net for images (C, H, W), H and W divisible by 2^(levels - 1)."""
        return UNet(self, self._image_shape(shape))
