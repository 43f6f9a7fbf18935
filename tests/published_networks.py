"""Builds the networks of the published PyTorch code (score_sde_pytorch) from its nested configurations.

A configuration is a mapping with ``model``, ``data`` and ``training``, in the published field names. The module that
:func:`build_network` returns has the published parameter names, so that a published state dict loads strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
from torch import nn
from scoresde_core.errors import near_misses
from scoresde_plugins.networks.ncsn import NCSN, NCSNv2
from scoresde_plugins.networks.unet import DDPM, NCSNpp
from scoresde_plugins.networks.unet_spec import ImageUNet
from scoresde_run.models.network import Network

Config = Mapping[str, Any]


def build_network(model: str, config: Config) -> nn.Module:
    """Build the published network ``model`` with the fields of ``config``."""
    if model in SPECIFICATIONS:
        data = config["data"]
        return SPECIFICATIONS[model](config).build((data["num_channels"], data["image_size"], data["image_size"]))
    if model in REFERENCE:
        return from_reference(model, config)
    raise ValueError(f"no published network is called {model!r}.{near_misses(model, [*SPECIFICATIONS, *REFERENCE])}")


def ncsnpp(config: Config) -> NCSNpp:
    """The specification of NCSN++ or DDPM++."""
    return NCSNpp(**_fields(NCSNpp, config))


def ddpm(config: Config) -> DDPM:
    """The specification of DDPM."""
    return DDPM(**_fields(DDPM, config))


SPECIFICATIONS: Mapping[str, Callable[[Config], Network]] = {"ncsnpp": ncsnpp, "ddpm": ddpm}
"""From the published model name to the function that makes our specification."""


def _fields(spec: type[ImageUNet], config: Config) -> dict[str, Any]:
    """Return the model fields that ``spec`` has (published files have unused ones too), and those derived from them."""
    names = {field.name for field in attrs.fields(spec)}
    fields = {name: value for name, value in config["model"].items() if name in names}
    # The published code ignores attention at a resolution that does not occur.
    sides = [config["data"]["image_size"] >> level for level in range(len(fields["ch_mult"]))]
    fields["attn_resolutions"] = [side for side in fields["attn_resolutions"] if side in sides]
    sde, continuous = config["training"]["sde"].lower(), config["training"]["continuous"]
    if sde == "vesde":
        meaning = {"parameterisation": "score", "label": "sigma" if continuous else "reverse_index"}
    else:
        # The published score function treats sub-VP as continuous whatever the configuration says.
        meaning = {"parameterisation": "noise", "label": "time" if continuous or sde == "subvpsde" else "index"}
    return {**fields, **meaning, "scales": config["model"]["num_scales"], "centered": config["data"]["centered"]}


REFERENCE: Mapping[str, Literal[64, 128, 256] | None] = {
    **dict.fromkeys(("ncsn", "CondRefineNetDilated")),
    **dict.fromkeys(("ncsnv2", "ncsnv2_64", "NCSNv2"), 64),
    **dict.fromkeys(("ncsnv2_128", "NCSNv2Deeper", "NCSNv2_128"), 128),
    **dict.fromkeys(("ncsnv2_256", "NCSNv2Deepest", "NCSNv2_256"), 256),
}
"""The published names, and the variant of NCSNv2 for each; None is NCSN."""

REFERENCE_NORMS: Mapping[str, Literal["instance_plus", "variance", "none"]] = {
    "InstanceNorm++": "instance_plus",
    "VarianceNorm": "variance",
    "NoneNorm": "none",
}


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
    for name in names:
        if name in fields:
            return fields[name]
    raise ValueError(f"the configuration has none of the fields {', '.join(names)}")
