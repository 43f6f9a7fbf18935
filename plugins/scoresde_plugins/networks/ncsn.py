"""NCSN and NCSNv2: dilated RefineNets (Song & Ermon 2019, arXiv:1907.05600, Appendix A; 2020, arXiv:2006.09011).

NCSN's norms are conditional InstanceNorm++, with a row of coefficients for each noise level i, 0 the highest noise; its
output is the score itself, which grows as 1 / sigma. NCSNv2 divides by sigma instead (Section 3.3, "Technique 3"):

    NCSN      s(x, i) ~ grad log p_{sigma_i}(x)
    NCSNv2    s(x, sigma) = f(x) / sigma,    f an unconditional RefineNet, of three depths for three resolutions

Noise levels follow a geometric progression from ``sigma_max`` down to ``sigma_min``. Inputs in [0, 1] are mapped to
[-1, 1]. Parameters are named as in the published checkpoints.
"""

from functools import partial
from typing import ClassVar, Literal

import attrs
from attrs.validators import ge, gt, in_
from torch import Tensor, nn
from scoresde_core import param
from .layers import geometric
from .refinenet import NORMS, ConditionalInstanceNormPlus, RefineNet, RefineNetSpec, Stage, check_image

_FINE = (Stage("res1", "refine5", 1), Stage("res2", "refine4", 2, pool=True), Stage("res3", "refine3", 2, pool=True))
_COARSE = (Stage("res4", "refine2", 4, dilation=2), Stage("res5", "refine1", 4, dilation=4))
STAGES: dict[int, tuple[Stage, ...]] = {
    64: (
        Stage("res1", "refine4", 1),
        Stage("res2", "refine3", 2, pool=True),
        Stage("res3", "refine2", 2, dilation=2),
        Stage("res4", "refine1", 2, dilation=4),
    ),
    128: (*_FINE, *_COARSE),
    256: (*_FINE, Stage("res31", "refine31", 2, pool=True), *_COARSE),
}
"""The published networks by resolution; NCSN has the first."""


@attrs.frozen(kw_only=True)
class NCSNv2(RefineNetSpec):
    """The RefineNet of NCSNv2, for images (C, H, W) of any channels and sides that leave more than one coarse pixel.

    ``variant`` auto is the published network for the longer side: 64 below 96 pixels, 128 up to 128, 256 up to 256.
    With nf = 128 they have 29.7, 83.4 and 94.1 M parameters. With label ``sigma`` the output is divided by the label
    itself, for training and sampling at any noise scale; ``scales``, ``sigma_max`` and ``sigma_min`` are then unused.
    """

    example: ClassVar = {"nf": 8}

    label: Literal["reverse_index", "sigma"] = param(
        "reverse_index", "number of a noise level, or its scale", in_(("reverse_index", "sigma"))
    )
    scales: int = param(232, "number of noise levels", ge(2))
    sigma_max: float = param(50.0, "noise scale of level 0, as in the SDE", gt(0))
    sigma_min: float = param(0.01, "noise scale of the last level, as in the SDE", gt(0))
    variant: Literal["auto", 64, 128, 256] = param("auto", "depth, named by resolution", in_(("auto", *STAGES)))
    norm: Literal["instance_plus", "variance", "none"] = param("instance_plus", "normalisation", in_(NORMS))
    scale_by_sigma: bool = param(True, "divide the output by the noise scale")

    def __attrs_post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            why = f"sigma_min ({self.sigma_min}) must be below sigma_max ({self.sigma_max}): level 0 has the most noise"
            raise ValueError(why)

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        side = max(shape[1:]) if len(shape) == 3 else 0  # else no image, which is refused below
        if side > 256 and self.variant == "auto":
            raise ValueError(f"no ncsnv2 was published for {side} pixels: choose a variant, such as variant=256")
        published = 64 if side < 96 else 128 if side <= 128 else 256
        stages = STAGES[published if self.variant == "auto" else self.variant]
        return NCSNv2Module(self, check_image("ncsnv2", shape, stages), stages)


class NCSNv2Module(RefineNet):
    """The network of an :class:`NCSNv2` specification; ``sigmas`` (scales,) is the table of noise scales, float32."""

    sigmas: Tensor

    def __init__(self, spec: NCSNv2, channels: int, stages: tuple[Stage, ...]) -> None:
        super().__init__(spec, channels, stages, norm=NORMS[spec.norm], inner=NORMS["none"], pool="max")
        self.labels_are_sigmas, self.scale_by_sigma = spec.label == "sigma", spec.scale_by_sigma
        # Always present, because the published state dicts contain it.
        self.register_buffer("sigmas", geometric(spec.sigma_max, spec.sigma_min, spec.scales))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The score of ``x`` (B, C, H, W) at ``label`` (B,): levels as whole numbers in any dtype, or noise scales."""
        h = super().forward(x, label)
        if self.scale_by_sigma:
            sigma = label if self.labels_are_sigmas else self.sigmas[label.round().long()]
            h = h / sigma.reshape(-1, 1, 1, 1)
        return h


@attrs.frozen(kw_only=True)
class NCSN(RefineNetSpec):
    """The conditional RefineNet of NCSN, for images (C, H, W) of any channels and any size above 2 x 2 pixels.

    ``scales`` noise levels are classes: a label is the number of a level, 0 the highest noise, with no level in
    between. nf = 128, the published CIFAR-10 model, has 30.1 M parameters with 10 levels.
    """

    example: ClassVar = {"nf": 8}

    label: Literal["reverse_index", "index"] = param(
        "reverse_index", "labels are numbers of noise levels", in_(("reverse_index", "index"))
    )
    scales: int = param(10, "number of noise levels, each with its own norm coefficients", ge(2))

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        norm = partial(ConditionalInstanceNormPlus, scales=self.scales)
        return RefineNet(self, check_image("ncsn", shape, STAGES[64]), STAGES[64], norm=norm, inner=norm, pool="mean")
