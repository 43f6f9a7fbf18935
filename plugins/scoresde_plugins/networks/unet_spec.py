"""Specifications of the U-Nets on images: the options that all of them share, and those of NCSN++.

Song et al. 2021, arXiv:2011.13456, Appendix H, changed the U-Net of DDPM in five ways (FIR filters, rescaled sums,
BigGAN blocks, more blocks, progressive growing); each is an option, named as in the published configurations.
"""

from collections.abc import Sequence
from typing import Literal

import attrs
from attrs import validators as check
from torch import Tensor
from scoresde_core import param
from .known import KnowingNetwork
from .layers import NONLINEARITIES, RECOMPUTE_HELP, geometric


@attrs.frozen(kw_only=True)
class ImageUNet(KnowingNetwork):
    """The options of the U-Nets on images, ``ncsnpp`` and ``ddpm``."""

    nf: int = param(128, "channels of the finest level", check.ge(4))
    ch_mult: tuple[int, ...] = param((1, 2, 2, 2), "channels of each level, in nf", check.min_len(1), converter=tuple)
    num_res_blocks: int = param(4, "residual blocks per level going down; one more going up", check.ge(1))
    attn_resolutions: tuple[int, ...] = param(
        (16,), "levels with attention, by the shorter side of their images; the middle always has it", converter=tuple
    )
    up_attention: Literal["level", "block"] = param(
        "level",
        "going up, attention after the last block of a level, or after every block",
        check.in_(["level", "block"]),
    )
    class_joins: Literal["embedding", "features"] = param(
        "embedding",
        "the class is added to the embedding, or to the label's features",
        check.in_(["embedding", "features"]),
    )
    dropout: float = param(0.1, "dropout inside the blocks", check.and_(check.ge(0), check.lt(1)))
    resamp_with_conv: bool = param(True, "for ddpm blocks, use a convolution at each change of resolution")
    conditional: bool = param(True, "whether the blocks receive the label")
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = param("swish", "activation", check.in_(NONLINEARITIES))
    scale_by_sigma: bool | None = param(
        None, "divide the output by sigma; null: if the output is a score and the label determines sigma"
    )
    sigma_min: float = param(0.01, "smallest noise scale of reverse_index, as in the VE SDE", check.gt(0))
    sigma_max: float = param(50.0, "largest noise scale of reverse_index, as in the VE SDE", check.gt(0))
    centered: bool = param(True, "data are in [-1, 1]; false: in [0, 1], mapped to [-1, 1]")
    recompute: bool = param(False, RECOMPUTE_HELP)

    def __attrs_post_init__(self) -> None:
        if min(self.ch_mult) < 1:
            raise ValueError(f"ch_mult={list(self.ch_mult)} must contain numbers of at least 1")
        if self.classes and not self.conditional:
            raise ValueError("conditional=false leaves classes without a way into the blocks: set one of the two")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} must be smaller than sigma_max={self.sigma_max}")
        if self.scale_by_sigma and not self._tells_sigma:
            why = f"scale_by_sigma needs parameterisation=score (here {self.parameterisation}) and label=sigma or"
            raise ValueError(f"{why} reverse_index (here {self.label}): change these or omit scale_by_sigma")

    @property
    def _tells_sigma(self) -> bool:
        return self.parameterisation == "score" and self.label in ("sigma", "reverse_index")

    @property
    def divides_by_sigma(self) -> bool:
        """``scale_by_sigma`` with its default resolved."""
        return self._tells_sigma if self.scale_by_sigma is None else self.scale_by_sigma

    def sigma_table(self) -> Tensor:
        """Return the geometric noise scales of discrete labels, (scales,), float32; 0 is the largest."""
        return geometric(self.sigma_max, self.sigma_min, self.scales)

    def check_size(self, sides: Sequence[int]) -> None:
        """Raise ``ValueError`` for images that the levels cannot halve."""
        step = 2 ** (len(self.ch_mult) - 1)
        if any(side % step for side in sides):
            size, padded = ("x".join(map(str, each)) for each in (sides, [-(-side // step) * step for side in sides]))
            why = f"events of {size} do not fit {len(self.ch_mult)} levels (ch_mult={list(self.ch_mult)})"
            raise ValueError(f"{why}, which need sides divisible by {step}: pad them to {padded} or use fewer levels")

    def attended(self, sides: Sequence[int]) -> list[bool]:
        """Return which levels have attention; raise ``ValueError`` for a resolution that no level has."""
        shortest = [min(sides) >> level for level in range(len(self.ch_mult))]
        absent = sorted(set(self.attn_resolutions) - set(shortest))
        if absent:
            wrong, right = (", ".join(map(str, values)) for values in (absent, shortest))
            raise ValueError(
                f"attn_resolutions={list(self.attn_resolutions)}: no level has {wrong}; the levels of "
                f"{'x'.join(map(str, sides))} events have {right}: choose among these, or [] for none"
            )
        return [side in self.attn_resolutions for side in shortest]


@attrs.frozen(kw_only=True)
class UNetSpec(ImageUNet):
    """All options of the U-Net, as ``ncsnpp`` has them."""

    resblock_type: Literal["biggan", "ddpm"] = param(
        "biggan", "biggan: blocks that resample inside; ddpm: separate layers", check.in_(["biggan", "ddpm"])
    )
    fir: bool = param(True, "FIR filters at each change of resolution; false: means and nearest neighbours")
    fir_kernel: tuple[float, ...] = param(
        (1.0, 3.0, 3.0, 1.0), "taps of the FIR filter, along one axis", check.min_len(2), converter=tuple
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
    min_group: int = param(4, "fewest channels of a GroupNorm group; there are at most 32 groups", check.ge(1))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if sum(self.fir_kernel) <= 0:
            raise ValueError(f"fir_kernel={list(self.fir_kernel)} must have a positive sum")
        if self.embedding == "fourier" and self.label in ("index", "reverse_index"):
            given = f"Fourier features need a continuous label, not {self.label}"
            raise ValueError(f"{given}: set embedding_type=positional")

    @property
    def embedding(self) -> str:
        """``embedding_type`` with its default resolved."""
        return self.embedding_type or ("fourier" if self.label == "sigma" else "positional")
