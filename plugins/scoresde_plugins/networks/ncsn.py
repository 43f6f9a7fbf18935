"""NCSN: the noise-conditional score network (Song & Ermon 2019, arXiv:1907.05600, Section 4.1 and Appendix A).

A dilated RefineNet whose norms are conditional InstanceNorm++, with a row of coefficients for each noise level:

    s(x, i) ~ grad log p_{sigma_i}(x),    i = 0 the highest noise

The output is the score itself, which grows as 1 / sigma; NCSNv2 divides by sigma instead of learning that. Inputs in
[0, 1] are mapped to [-1, 1]. Parameters are named as in the published checkpoints, see :func:`from_reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import ge, in_
from torch import Tensor, nn

from scoresde_core.components import param

from .instance_norm import ConditionalInstanceNormPlus
from .ncsnv2 import STAGES, NCSNv2
from .refinenet import RefineNet, RefineNetSpec, check_image, level_index

Variant = Literal[64, 128, 256]

REFERENCE: Mapping[str, Variant | None] = {
    "ncsn": None,
    "CondRefineNetDilated": None,
    "ncsnv2": 64,
    "ncsnv2_64": 64,
    "NCSNv2": 64,
    "ncsnv2_128": 128,
    "NCSNv2Deeper": 128,
    "NCSNv2_128": 128,
    "ncsnv2_256": 256,
    "NCSNv2Deepest": 256,
    "NCSNv2_256": 256,
}
"""The published names, and the variant of NCSNv2 for each; None is NCSN."""

REFERENCE_NORMS: Mapping[str, Literal["instance_plus", "variance", "none"]] = {
    "InstanceNorm++": "instance_plus",
    "VarianceNorm": "variance",
    "NoneNorm": "none",
}

LABELS = ("reverse_index", "index")


@attrs.frozen(kw_only=True)
class NCSN(RefineNetSpec):
    """The conditional RefineNet of NCSN, for images (C, H, W) of any channels and any size above 2 x 2 pixels.

    ``scales`` noise levels are classes: a label is the number of a level, 0 the highest noise, with no level in
    between. nf = 128, the published CIFAR-10 model, has 30.1 M parameters with 10 levels.
    """

    example: ClassVar = {"nf": 8}

    label: Literal["reverse_index", "index"] = param("reverse_index", "labels are numbers of noise levels", in_(LABELS))
    scales: int = param(10, "number of noise levels, each with its own norm coefficients", ge(2))

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        return NCSNModule(self, check_image("ncsn", shape, STAGES[64]))


class NCSNModule(RefineNet):
    """The network of an :class:`NCSN` specification."""

    def __init__(self, spec: NCSN, channels: int) -> None:
        norm = partial(ConditionalInstanceNormPlus, scales=spec.scales)
        super().__init__(spec, channels, STAGES[64], norm=norm, refine_norm=norm, pool="mean")

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The score of ``x`` (B, C, H, W) at levels ``label`` (B,), whole numbers in any dtype."""
        return self.raw(x, level_index(label))


def from_reference(model: str, config: Mapping[str, Any]) -> nn.Module:
    """Return the module that loads the state dict of a published checkpoint strictly.

    ``model`` is a class or registered name of the published code (:data:`REFERENCE`); ``config`` its nested
    configuration, with the field names of ermongroup/ncsn and ncsnv2 or those of yang-song/score_sde_pytorch. Where it
    lacks a setting (the activation of NCSN), the published code's constant is used.
    """
    if model not in REFERENCE:
        raise ValueError(f"unknown network {model!r} of the NCSN family: choose from {', '.join(REFERENCE)}")
    variant, settings, data = REFERENCE[model], config["model"], config["data"]
    # The code of NCSN never reads ``rescaled``.
    centering = ("centered", "logit_transform", "rescaled") if variant else ("centered", "logit_transform")
    common: dict[str, Any] = {
        "nf": _field(settings, "ngf", "nf"),
        "scales": _field(settings, "num_classes", "num_scales"),
        "nonlinearity": settings.get("nonlinearity", "elu").lower(),
        "centered": any(data.get(name, False) for name in centering),
    }
    size = int(data["image_size"])
    shape = (_field(data, "channels", "num_channels"), size, size)
    if variant is None:
        return NCSN(**common).build(shape)
    norm = settings.get("normalization", "InstanceNorm++")
    if norm not in REFERENCE_NORMS:
        raise ValueError(f"unknown normalisation {norm!r} of ncsnv2: choose from {', '.join(REFERENCE_NORMS)}")
    if settings.get("sigma_dist", "geometric") != "geometric":
        raise ValueError(f"ncsnv2 has geometric noise scales, not {settings['sigma_dist']!r}")
    network = NCSNv2(
        **common,
        norm=REFERENCE_NORMS[norm],
        variant=variant,
        sigma_max=float(_field(settings, "sigma_begin", "sigma_max")),
        sigma_min=float(_field(settings, "sigma_end", "sigma_min")),
    )
    return network.build(shape)


def _field(fields: Mapping[str, Any], *names: str) -> Any:
    """Return the first of ``names`` that ``fields`` has."""
    for name in names:
        if name in fields:
            return fields[name]
    raise ValueError(f"the configuration has none of the fields {', '.join(names)}")
