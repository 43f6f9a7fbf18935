"""Checkpoint files of the published PyTorch code, as plain tensors under our parameter names.

    score_sde_pytorch   {optimizer, model, ema: {shadow_params: [...], ...}, step}
    ncsn, ncsnv2        [model, optimizer, epoch, step, ema]    (the first release stops after the optimizer)
    anything else       a state dict

``model`` was saved through DataParallel, so its names begin with ``module.``. ``shadow_params`` is a list without
names: the averages of the parameters that are trained, in the order in which the model holds them, which is that of
its state dict. A parameter that is frozen (the Fourier frequencies) has none.
Files are pickles; they are read with ``weights_only``, which runs no code of theirs.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from scoresde_core.checkpoint import mismatches
from scoresde_core.errors import FileError

_PREFIX = "module."


@attrs.frozen
class Published:
    """A published file: which layout it has, its tensors by name, its averages by name or in order, its step."""

    layout: str
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | list[Tensor] | None
    step: int


@attrs.frozen
class Converted:
    """The same for a network of ours: all of its tensors, the averaged ones, and what was changed on the way."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    notes: list[str]


class Misfit(FileError):
    """A file that is not of this network; ``report`` has a line for every tensor that does not match."""

    def __init__(self, message: str, report: list[str]) -> None:
        self.report = report
        super().__init__(message)


def read_published(path: Path) -> Published:
    """The tensors in ``path``; :class:`FileError` for a file that is no checkpoint or holds other objects."""
    content = _unpickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        ema = content.get("ema")
        shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
        averages = list(shadow) if isinstance(shadow, Sequence) else None
        return Published("score_sde_pytorch", _state(path, content["model"]), averages, _step(content.get("step")))
    if isinstance(content, Sequence) and content and isinstance(content[0], Mapping):
        named = _state(path, content[4]) if len(content) > 4 and isinstance(content[4], Mapping) else None
        return Published("ncsn", _state(path, content[0]), named, _step(content[3] if len(content) > 3 else 0))
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return Published("state dict", _state(path, content), None, 0)
    raise FileError(
        f"{path} is in none of the known layouts: a mapping with 'model', a list that starts with a state dict, "
        "or a state dict"
    )


def convert(published: Published, network: nn.Module, table: bool = False) -> Converted:
    """The tensors of ``published`` for ``network``, whose names and shapes they must have; :class:`Misfit` otherwise.

    With ``table`` the noise scales that the file keeps (``sigmas``) must also be the network's.
    """
    own, weights = network.state_dict(), published.weights
    report = _compare(own, weights)
    if report:
        raise Misfit("; ".join(mismatches(network, weights)), report)
    if table and "sigmas" in own and not torch.allclose(weights["sigmas"].to(own["sigmas"]), own["sigmas"], rtol=1e-4):
        theirs, ours = (f"{values[0]:g} to {values[-1]:g}" for values in (weights["sigmas"], own["sigmas"]))
        message = f"its noise scales run from {theirs}, the preset's from {ours}"
        raise Misfit(message, [f"differs: sigmas, {theirs} in the file, {ours} in the preset"])
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    ema = _named_averages(published, [name for name in weights if name in trained])
    if ema is not None:
        strange = _compare(
            {name: own[name] for name in trained}, {n: t for n, t in ema.items() if n not in own or n in trained}
        )
        if strange:
            raise Misfit(f"{len(strange)} of its averaged weights do not match", strange)
        ema = {name: ema[name].to(own[name].dtype) for name in own if name in trained}
    changed = {f"{weights[name].dtype} to {own[name].dtype}".replace("torch.", "") for name in own
               if weights[name].dtype != own[name].dtype}  # fmt: skip
    notes = [f"converted from {change}" for change in sorted(changed)]
    return Converted({name: weights[name].to(own[name].dtype) for name in own}, ema, notes)


def _named_averages(published: Published, trained: list[str]) -> dict[str, Tensor] | None:
    """The averages by name; ``trained`` are the names of the parameters they are of, in the file's order."""
    if not isinstance(published.ema, list):
        return published.ema
    if len(published.ema) != len(trained):
        message = f"it has {len(published.ema)} averaged weights for {len(trained)} trained parameters"
        raise Misfit(message, [message])
    return dict(zip(trained, published.ema, strict=True))


def _compare(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor that is missing, unexpected, or of another shape."""
    lines = [f"missing: {name}" for name in own if name not in found]
    lines += [f"unexpected: {name}" for name in found if name not in own]
    for name in own:
        if name in found and own[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} in the file, {tuple(own[name].shape)} in the network"
            lines.append(f"wrong shape: {name}, {shapes}")
    return lines


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}") from error
    except pickle.UnpicklingError as error:
        names = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        if names is None:
            raise FileError(f"{path} is damaged or not a PyTorch file") from error
        raise FileError(
            f"{path} holds a pickled {names[1]} besides tensors, which could run code and is not read: "
            "save its state dict again, with tensors and numbers alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise FileError(f"{path} is damaged or not a PyTorch file ({str(error).splitlines()[0][:100]})") from error


def _state(path: Path, mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    """A state dict without the prefix of DataParallel."""
    odd = [str(name) for name, value in mapping.items() if not isinstance(value, Tensor)]
    if odd or not mapping:
        raise FileError(f"{path} holds no state dict where one belongs: {odd[0] if odd else 'it'} is no tensor")
    wrapped = all(str(name).startswith(_PREFIX) for name in mapping)
    return {str(name).removeprefix(_PREFIX) if wrapped else str(name): value for name, value in mapping.items()}


def _step(value: Any) -> int:
    """A step count, which some files keep as a tensor."""
    return int(value) if isinstance(value, int | float | Tensor) else 0
