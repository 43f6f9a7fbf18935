"""NCSN++ and DDPM++ (Song et al. 2021, arXiv:2011.13456, Appendix H), with all options of its search, and DDPM."""

from typing import ClassVar

import attrs
from attrs import validators as check

from scoresde_core.components import param

from .unet import UNet
from .unet_spec import ImageUNet, UNetSpec


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


@attrs.frozen(kw_only=True)
class DDPM(ImageUNet):
    """The U-Net of Ho et al. 2020, arXiv:2006.11239, Appendix B; ``conditional=false`` omits the label.

    It is that of NCSN++ without its additions: no filters, pyramids or rescaled sums, separate layers at each change of
    resolution, and GroupNorm with 32 groups however few channels they have.
    """

    example: ClassVar = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}

    num_res_blocks: int = param(2, "residual blocks per level going down; one more going up", check.ge(1))

    def build(self, shape: tuple[int, ...]) -> UNet:
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
