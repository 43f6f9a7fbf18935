"""Checkpoint files of the published PyTorch code, as plain tensors under our parameter names.

    score_sde_pytorch   {optimizer, model, ema: {shadow_params: [...], ...}, step}
    ncsn, ncsnv2        [model, optimizer, epoch, step, ema]    (the first release stops after the optimizer)
    Lightning           {state_dict, global_step, ...}, also with model_state_dict
    anything else       a state dict

Names may have a prefix, such as the ``module.`` of DataParallel or the attribute of a class that held the network: it
is found by comparison with the network's names and removed. ``shadow_params`` is a list without names: the averages of
the trained parameters, in the order of the model's state dict. Frozen parameters (the Fourier frequencies) have none.
Files are pickles; they are read with ``weights_only``, which runs no code from them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from scoresde_core import FileError
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import Weights, mismatches, summary

_STATES = ("state_dict", "model_state_dict")  # keys under which other trainers store a state dict


@attrs.frozen
class Published:
    """The content of a published file: its layout, tensors by name, averages by name or in order, and step."""

    layout: str
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | list[Tensor] | None
    step: int
    notes: list[str] = attrs.field(factory=list)


@attrs.frozen
class Converted:
    """Tensors converted for one of our networks: all weights, the averages, and notes on what was changed."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    notes: list[str]


class Misfit(FileError):
    """The file does not fit the network; ``report`` has a line for every tensor that does not match."""

    def __init__(self, message: str, report: list[str]) -> None:
        self.report = report
        super().__init__(message)


def read_published(path: Path) -> Published:
    """Read the tensors in ``path``; :class:`FileError` for a file that is no checkpoint or holds other objects."""
    content = inputs.unpickled(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        averages = None if content.get("ema") is None else _shadow(path, content["ema"])
        return Published("score_sde_pytorch", _state(path, content["model"]), averages, _step(content.get("step")))
    for name in _STATES:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return Published(name, _state(path, content[name]), None, _step(content.get("global_step")))
    if isinstance(content, Sequence) and content and isinstance(content[0], Mapping):
        named = _state(path, content[4]) if len(content) > 4 and isinstance(content[4], Mapping) else None
        return Published("ncsn", _state(path, content[0]), named, _step(content[3] if len(content) > 3 else 0))
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return Published("state dict", _state(path, content), None, 0)
    why = f"{path} is in none of the known layouts: a mapping with 'model' or 'state_dict', a list that starts with a"
    raise FileError(f"{why} state dict, or a state dict")


def convert(published: Published, network: nn.Module, table: bool = False, prefix: str | None = None) -> Converted:
    """Convert the tensors of ``published`` for ``network``; :class:`Misfit` unless names and shapes match.

    ``prefix`` (None: found) is removed from their names; tensors without it are left out, with a note. With ``table``
    the noise scales in the file (``sigmas``) must also be those of the network.
    """
    own = network.state_dict()
    stored, notes = _without_prefix(published.weights, own, prefix)
    # What the network accepts but has no use for, such as layers that would read a label.
    surplus = {name: value for name, value in stored.items() if name not in own}
    unread = set(surplus) - set(network.load_state_dict(surplus, strict=False).unexpected_keys)
    weights = {name: value for name, value in stored.items() if name not in unread}
    report = mismatches(own, weights) or [
        f"wrong type: {name}, {value.dtype}" for name, value in weights.items() if not value.is_floating_point()
    ]
    if report:
        raise Misfit("; ".join([summary(report), *notes]), report)
    if table and "sigmas" in own:
        weights["sigmas"] = _table(weights["sigmas"], own["sigmas"])
    named = published.ema if isinstance(published.ema, dict) else {}
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad or name in named}
    order = [name for name in stored if name in trained or name in unread]
    ema = None if published.ema is None else _averages(published.ema, trained, order, unread)
    casts = {(weights[name].dtype, own[name].dtype) for name in own if weights[name].dtype != own[name].dtype}
    notes += [f"converted from {old} to {new}".replace("torch.", "") for old, new in sorted(casts, key=str)]
    weights = {name: weights[name].to(own[name].dtype) for name in own}
    return Converted(weights, ema, [*notes, *published.notes])


def _without_prefix(weights: Weights, own: Weights, prefix: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Remove the prefix (None: to be found) from the names of ``weights``; return them with notes."""
    prefix = _prefix(weights, own) if prefix is None else prefix
    kept = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not kept:
        raise FileError(f"no name in the file begins with {prefix!r}; the first is {next(iter(weights), 'none')}")
    others = [name for name in weights if not name.startswith(prefix)]
    notes = [f"prefix {prefix!r} dropped from {len(kept)} names"] if prefix else []
    if others:
        notes.append(f"{len(others)} tensors without it left out, the first is {others[0]}")
    return kept, notes


def _prefix(weights: Weights, own: Weights) -> str:
    """Return the prefix under which all of ``own`` has its shapes, else the one under which most names occur."""
    found: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for k in range(len(parts)):
            found[".".join([*parts[:k], ""])] += ".".join(parts[k:]) in own

    def fits(prefix: str) -> bool:
        return all((here := weights.get(prefix + name)) is not None and here.shape == own[name].shape for name in own)

    fitting = [prefix for prefix in found if fits(prefix)]
    if len(fitting) > 1:
        named = " and ".join(map(repr, sorted(fitting)))
        raise FileError(f"the file holds the network {len(fitting)} times, under {named}: say which by --prefix")
    return fitting[0] if fitting else found.most_common(1)[0][0]


def _table(theirs: Tensor, ours: Tensor) -> Tensor:
    """Check the noise scales: weights of one shape fit models of several noise ranges, only the table differs.

    Return the file's table, or ours where a file in half precision has it rounded.
    """
    spacing = torch.finfo(theirs.dtype).eps
    if torch.allclose(theirs.to(ours), ours, rtol=max(1e-4, spacing)):
        return theirs if spacing <= torch.finfo(ours.dtype).eps else ours
    found, wanted = (f"{values[0]:g} to {values[-1]:g}" for values in (theirs, ours))
    report = [f"differs: sigmas, {found} in the file, {wanted} in the preset"]
    raise Misfit(f"its noise scales run from {found}, the preset's from {wanted}", report)


def _averages(
    found: dict[str, Tensor] | list[Tensor], trained: Mapping[str, Tensor], order: list[str], unread: set[str]
) -> dict[str, Tensor]:
    """Averages of the ``trained`` parameters by name; a list has the ``order`` of the file, and ``unread`` names."""
    if isinstance(found, list):
        if len(found) != len(order):
            message = f"it has {len(found)} averaged weights for {len(order)} trained parameters"
            raise Misfit(message, [message])
        found = dict(zip(order, found, strict=True))
    found, _ = _without_prefix(found, trained)
    found = {name: value for name, value in found.items() if name not in unread}
    if report := [f"averages: {line}" for line in mismatches(trained, found)]:
        raise Misfit(f"{len(report)} of its averaged weights do not match", report)
    return {name: found[name].to(trained[name].dtype) for name in trained}


def _state(path: Path, mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    odd = [str(name) for name, value in mapping.items() if not isinstance(value, Tensor)]
    if odd or not mapping:
        raise FileError(f"{path} holds no state dict where one belongs: {odd[0] if odd else 'it'} is no tensor")
    return {str(name): value for name, value in mapping.items()}


def _shadow(path: Path, ema: Any) -> list[Tensor]:
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list) or not all(isinstance(value, Tensor) for value in shadow):
        raise FileError(f"{path} has averages in an unknown form: 'ema' holds no list of tensors, 'shadow_params'")
    return shadow


def _step(value: Any) -> int:
    """Return a step count, which some files store as a tensor; 0 for anything else."""
    try:
        return int(value) if isinstance(value, int | float | Tensor) else 0
    except (ValueError, OverflowError, RuntimeError):  # no finite number, or several
        return 0
