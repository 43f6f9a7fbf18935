"""Models that other libraries saved: a configuration, and weights that must all have a place in its network.

The names of a U-Net's layers are in ``names.yaml``. A 1x1 convolution that we have as a matrix ``W`` (in, out) is (out,
in, 1, 1) or (out, in) there. A name that ends in ``/k`` is every third row from k on: EDM's query, key and value.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_run import Plan
from scoresde_run.machine import document, inputs
from scoresde_run.models.checkpoint import mismatches, summary
from ..networks.unet import UNet
from ..song2021.published_checkpoint import Converted, Misfit


@attrs.frozen
class Foreign:
    """A model of another library; ``named(module)`` gives our names of its tensors with those of the ``file``."""

    layout: str
    file: Path
    config: dict[str, Any]
    weights: Mapping[str, Tensor]
    named: Callable[[Any], Mapping[str, str]]
    notes: list[str]
    made: Mapping[str, Tensor] = attrs.field(factory=dict)  # under our names, what the file has in another form

    def convert(self, plan: Plan) -> Converted:
        """The tensors for the network of ``plan``; :class:`Misfit` unless each has its place."""
        with torch.device("meta"):  # no memory for its numbers
            module: Any = plan.build().network
        own, named, found = dict(module.state_dict()), self.named(module), dict(self.made)
        later = {"sigmas": module.spec.sigma_table()} if own.pop("sigmas", None) is not None else {}
        for name, (key, _, third) in ((name, key.partition("/")) for name, key in named.items()):
            if key in self.weights:
                value = self.weights[key][int(third) :: 3] if third else self.weights[key]
                found[name] = value.flatten(1).t() if name.endswith(".W") and value.ndim > 1 else value
        used = {key.partition("/")[0] for key in named.values()}
        report = [line for line in mismatches(own, found) if not line.startswith("missing: ")]
        report += [f"missing: {named.get(name, name)}" for name in own if name not in found]
        report += [f"unexpected: {name}" for name in self.weights if name not in used]
        report += [f"wrong type: {name}, {v.dtype}" for name, v in found.items() if not v.is_floating_point()]
        if report:
            raise Misfit(summary(report), report)
        casts = {f"converted from {v.dtype}" for name, v in found.items() if v.dtype != own[name].dtype}
        weights = {name: found[name].to(own[name].dtype) for name in own} | later
        return Converted(weights, None, [*self.notes, *sorted(casts)])


def rows(file: str) -> dict[str, Any]:
    """The content of a table of this package."""
    found: dict[str, Any] = document.load(inputs.text(files(__package__).joinpath(file)))
    return found


def names(unet: UNet, kind: str, side: int) -> dict[str, str]:
    """Our names of the tensors of ``unet`` for images of ``side`` with theirs; ``sigmas`` has none."""
    tables, found = rows("names.yaml"), {}
    table = {**tables.get(tables[kind].get("like"), {}), **tables[kind]}
    for place, role, level, j in _layers(unet):
        r, u, module = side >> level, len(unet.down) - 1 - level, unet.all_modules[place]
        known = {"i": level, "u": u, "j": j, "r": r, "s": r // 2, "t": 2 * r}
        where = table[role].format(**known, p=unet.spec.progressive_input.removeprefix("input_"))
        inside: Mapping[str, str] = table["inside"].get(type(module).__name__, {})
        for name in module.state_dict():
            inner, _, leaf = name.rpartition(".")
            inner, _, third = inside.get(inner, inner).partition("/")
            leaf = inside.get(name, {"W": "weight", "b": "bias"}.get(leaf, leaf))
            theirs = ".".join(part for part in (where, inner, leaf) if part)
            found[f"all_modules.{place}.{name}"] = f"{theirs}/{third}" if third else theirs
    return found


def _layers(unet: UNet) -> list[tuple[int, str, int, int]]:
    """Indices of layers in ``all_modules``, each with its role, its level and its number there."""

    def each(role: str, places: tuple[int, ...], level: int) -> list[tuple[int, str, int, int]]:
        return [(place, f"{role}_{k}", level, k) for k, place in enumerate(places)]

    found = each("fourier", unet.fourier, 0) + each("embed", unet.embedding, 0) + each("first", unet.first, 0)
    for way, stages in (("down", unet.down), ("up", unet.up[::-1])):
        for level, stage in enumerate(stages):
            found += [(block, way, level, j) for j, block in enumerate(stage.blocks)]
            attends = [(block + 1, j) for j, block in enumerate(stage.blocks) if block + 1 in stage.attention]
            found += [(place, f"{way}_attention", level, j) for place, j in attends]
            found += each("last" if way == "up" and level == 0 else f"{way}_pyramid", stage.pyramid, level)
            found += each(f"{way}_resample", stage.resample, level)
    return found + each("middle", unet.middle, len(unet.down) - 1) + each("last", unet.last, 0)
