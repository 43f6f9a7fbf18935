"""Builds the networks of the published PyTorch code (score_sde_pytorch) from its nested configurations.

A configuration is a mapping with ``model``, ``data`` and ``training``, in the published field names. The module that
:func:`build_network` returns has the published parameter names, so that a published state dict loads strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import nn

from scoresde_core.errors import near_misses
from scoresde_run.models.network import Network

from ..networks.unet import DDPM, NCSNpp
from ..networks.unet_spec import ImageUNet

Config = Mapping[str, Any]


def build_network(model: str, config: Config) -> nn.Module:
    """Build the published network ``model`` with the fields of ``config``."""
    if model in SPECIFICATIONS:
        data = config["data"]
        return SPECIFICATIONS[model](config).build((data["num_channels"], data["image_size"], data["image_size"]))
    from ..networks import ncsn

    if model in ncsn.REFERENCE:
        return ncsn.from_reference(model, config)
    raise ValueError(
        f"no published network is called {model!r}.{near_misses(model, [*SPECIFICATIONS, *ncsn.REFERENCE])}"
    )


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
