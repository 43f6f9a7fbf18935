"""NCSNv2: a score network that depends on noise by a division only (Song & Ermon 2020, arXiv:2006.09011, Section 3.3).

    s(x, sigma) = f(x) / sigma

with f an unconditional dilated RefineNet: the norm of a score is proportional to 1 / sigma, which f need not learn
("Technique 3"). Three depths serve three ranges of resolution. Noise levels follow a geometric progression from
``sigma_max`` down to ``sigma_min``; a label is the number of a level, or the noise scale itself.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs
from attrs.validators import ge, gt, in_
from torch import Tensor, nn

from scoresde_core.components import param

from .instance_norm import InstanceNormPlus, NoNorm, Norm, VarianceNorm
from .layers import geometric
from .refinenet import RefineNet, RefineNetSpec, Stage, check_image, level_index

STAGES: dict[int, tuple[Stage, ...]] = {
    64: (
        Stage("res1", "refine4", 1),
        Stage("res2", "refine3", 2, pool=True),
        Stage("res3", "refine2", 2, dilation=2),
        Stage("res4", "refine1", 2, dilation=4),
    ),
    128: (
        Stage("res1", "refine5", 1),
        Stage("res2", "refine4", 2, pool=True),
        Stage("res3", "refine3", 2, pool=True),
        Stage("res4", "refine2", 4, dilation=2),
        Stage("res5", "refine1", 4, dilation=4),
    ),
    256: (
        Stage("res1", "refine5", 1),
        Stage("res2", "refine4", 2, pool=True),
        Stage("res3", "refine3", 2, pool=True),
        Stage("res31", "refine31", 2, pool=True),
        Stage("res4", "refine2", 4, dilation=2),
        Stage("res5", "refine1", 4, dilation=4),
    ),
}
"""The published networks by resolution; NCSN has the first."""

NORMS: dict[str, Norm] = {"instance_plus": InstanceNormPlus, "variance": VarianceNorm, "none": NoNorm}
LABELS = ("reverse_index", "sigma")
VARIANTS = ("auto", *STAGES)


@attrs.frozen(kw_only=True)
class NCSNv2(RefineNetSpec):
    """The RefineNet of NCSNv2, for images (C, H, W) of any channels and sides that leave more than one coarse pixel.

    ``variant`` auto is the published network for the longer side: 64 below 96 pixels, 128 up to 128, 256 up to 256.
    With nf = 128 they have 29.7, 83.4 and 94.1 M parameters. With label ``sigma`` the output is divided by the label
    itself, for training and sampling at any noise scale; ``scales``, ``sigma_max`` and ``sigma_min`` are then unused.
    """

    example: ClassVar = {"nf": 8}

    label: Literal["reverse_index", "sigma"] = param(
        "reverse_index", "number of a noise level, or its scale", in_(LABELS)
    )
    scales: int = param(232, "number of noise levels", ge(2))
    sigma_max: float = param(50.0, "noise scale of level 0, as in the SDE", gt(0))
    sigma_min: float = param(0.01, "noise scale of the last level, as in the SDE", gt(0))
    variant: Literal["auto", 64, 128, 256] = param("auto", "depth, named by resolution", in_(VARIANTS))
    norm: Literal["instance_plus", "variance", "none"] = param("instance_plus", "normalisation", in_(NORMS))
    scale_by_sigma: bool = param(True, "divide the output by the noise scale")

    def __attrs_post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min ({self.sigma_min}) must be below sigma_max ({self.sigma_max}): level 0 has the most noise"
            )

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        stages = STAGES[64 if len(shape) != 3 else self._variant(max(shape[1:]))]
        return NCSNv2Module(self, check_image("ncsnv2", shape, stages), stages)

    def _variant(self, side: int) -> int:
        if self.variant != "auto":
            return self.variant
        if side > 256:
            raise ValueError(f"no ncsnv2 was published for {side} pixels: choose a variant, such as variant=256")
        return 64 if side < 96 else 128 if side <= 128 else 256


class NCSNv2Module(RefineNet):
    """The network of an :class:`NCSNv2` specification; ``sigmas`` (scales,) is the table of noise scales, float32."""

    sigmas: Tensor

    def __init__(self, spec: NCSNv2, channels: int, stages: tuple[Stage, ...]) -> None:
        super().__init__(spec, channels, stages, norm=NORMS[spec.norm], pool="max")
        self.labels_are_sigmas, self.scale_by_sigma = spec.label == "sigma", spec.scale_by_sigma
        # Always present, because the published state dicts contain it.
        self.register_buffer("sigmas", geometric(spec.sigma_max, spec.sigma_min, spec.scales))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The score of ``x`` (B, C, H, W) at ``label`` (B,): levels as whole numbers in any dtype, or noise scales."""
        h = self.raw(x, None)
        if self.scale_by_sigma:
            sigma = label if self.labels_are_sigmas else self.sigmas[level_index(label)]
            h = h / sigma.reshape(-1, 1, 1, 1)
        return h
