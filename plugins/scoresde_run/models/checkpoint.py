"""Checkpoints: folders from which models are rebuilt.

    model.yaml              format, version, configuration, step, provenance, plugins of the network and the process,
                            sha256 of the other files and of itself
    weights.safetensors     every parameter and buffer
    ema.safetensors         averaged parameters, if there are any; everything else is as in the weights

A folder appears whole or not at all, and is never replaced. Nothing in it can run code when it is read. Weights may be
stored in half precision; a loaded model has them in float32. A plugin may ship checkpoints: the target of a row of this
kind is the index of such a folder, and its name is accepted wherever a folder is (:func:`find`).
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from scoresde_core import OURS, FileError, PluginError, Registry, Spec, UnknownName, param
from ..machine import document, inputs
from ..machine.digest import DIGEST, digest_of, is_changed
from ..machine.files import check_new, new_folder
from . import names
from .config import Config
from .model import Model, plan_model
from .parameterisation import PARAMETERISATIONS

FORMAT = "scoresde-checkpoint"
VERSION = 1
INDEX, WEIGHTS, EMA = "model.yaml", "weights.safetensors", "ema.safetensors"

Weights = Mapping[str, Tensor]


@attrs.frozen
class Checkpoint:
    """The index of a checkpoint folder; reading it opens no weights."""

    folder: Path = param(help="the folder of its files")
    config: Config = param(help="the configuration of the model and its training")
    step: int = param(help="optimiser steps made")
    provenance: dict[str, Any] = param(help="origin of the weights")
    hashes: dict[str, str] = param(help="sha256 of each weights file; none for a network that brings its weights")
    name: str = param(help="its folder, or its name in the registry")
    plugins: dict[str, str] = param(attrs.Factory(dict), "plugins, but ours, of its network and sde, with versions")

    @staticmethod
    def read(folder: Traversable | Path, name: str) -> "Checkpoint":
        """Read the checkpoint with the index ``name`` in ``folder``, a directory or a package's resources."""
        return read(Path(str(folder.joinpath(name))).parent)

    def clear(self, registry: Registry, owners: Sequence[str]) -> "Checkpoint":
        """Qualify names that several plugins have (:meth:`Config.clear`); PluginError for a plugin that is missing."""
        for part, plugin in self.plugins.items():
            name = getattr(self.config.model, part).name
            if not registry.claims(names.PARTS[part], name):
                what = f"{self.folder} has the {part} {name!r} of the plugin {plugin}, which is not loaded"
                raise PluginError(f"{what}: pip install {plugin.partition(' ')[0]}, or see 'scoresde plugins'")
        return attrs.evolve(self, config=self.config.clear(registry, owners))

    def uses_ema(self, ema: bool | None = None) -> bool:
        """Whether to use averaged weights: ``ema``, or if None, whether there are any. Raises if asked in vain."""
        if ema and EMA not in self.hashes:
            raise FileError(f"{self.folder} has no averaged weights: load the plain ones (--weights raw)")
        return EMA in self.hashes and ema is not False

    def digest(self, ema: bool | None = None) -> str:
        """16 hexadecimal digits that identify the weights that :meth:`load` returns."""
        names = [name for name in (WEIGHTS, EMA) if name in self.hashes and (name == WEIGHTS or self.uses_ema(ema))]
        return hashlib.sha256("".join(self.hashes[name] for name in names).encode()).hexdigest()[:16]

    def load(
        self, registry: Registry, ema: bool | None = None, outputs: Collection[str] | None = PARAMETERISATIONS
    ) -> Model:
        """Build the model with its weights, in evaluation mode on the CPU; ``ema`` as for :meth:`uses_ema`.

        ``outputs`` is that of :func:`~scoresde_run.models.model.plan_model`; by default a score model is required.
        Raises :class:`FileError` for files that are missing, changed or of another network.
        """
        averaged = self.uses_ema(ema)
        model = plan_model(self.config.clear(registry, [OURS]), registry, outputs).build()
        if not self.hashes:
            return model
        state = self._read(WEIGHTS)
        if averaged:
            state |= self._read(EMA)
        check_fit(model.network.state_dict(), state, self.folder, "its own configuration")
        model.network.load_state_dict(state)
        return model

    def states(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The plain and the averaged weights, on the CPU; the latter are empty if there are none."""
        return self._read(WEIGHTS), self._read(EMA) if EMA in self.hashes else {}

    def _read(self, name: str) -> dict[str, Tensor]:
        return read_tensors(self.folder / name, self.hashes[name], INDEX, "; copy or import it again")


def read_tensors(path: Path, sha256: str, index: str, remedy: str = "") -> dict[str, Tensor]:
    """Read a safetensors file; :class:`FileError` if that fails, or its sha256 is not the one that ``index`` says."""
    try:
        if (found := file_hash(path)) != sha256:
            raise FileError(f"{path} is damaged: its sha256 is {found[:12]}..., {index} says {sha256[:12]}...{remedy}")
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot read the weights {path}: {error}") from error
    return state


def write_tensors(path: Path, tensors: Weights) -> str:
    """Write a safetensors file, of copies only where tensors share memory, which it refuses; return its sha256."""
    found = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(found, path)
    except RuntimeError:
        save_file({name: value.clone() for name, value in found.items()}, path)
    return file_hash(path)


def read(folder: Path | str) -> Checkpoint:
    """The checkpoint in ``folder``, or its run's newest; FileError if it is missing, damaged or of a newer version."""
    folder = newest(Path(folder))
    path = folder / INDEX
    if not path.is_file():
        what = f"no {INDEX} in it" if folder.is_dir() else "no such folder"
        raise FileError(f"{folder} is not a checkpoint: there is {what}")
    with inputs.reading(path):
        index = document.load(inputs.text(path))
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise FileError(f"{path} is damaged or not a checkpoint: it lacks 'format: {FORMAT}'")
    version = index.get("version")
    if isinstance(version, int) and version > VERSION:
        raise FileError(f"{path} has version {version}, this scoresde reads up to {VERSION}: upgrade scoresde")
    types = {"version": int, "step": int, "provenance": dict, "config": dict, "sha256": dict, "plugins": dict}
    wrong = [key for key, kind in types.items() if not isinstance({"plugins": {}, **index}.get(key), kind)]
    hashes = {} if wrong else {str(name): str(digest) for name, digest in index["sha256"].items()}
    if wrong or WEIGHTS not in hashes or not set(hashes) <= {WEIGHTS, EMA}:
        raise FileError(f"{path} is damaged: {', '.join(wrong) or 'sha256'} is missing or invalid")
    config = Config.from_plain(index["config"], str(path))
    if is_changed(index):
        raise FileError(f"{path} is damaged: its digest does not match its content; copy or import it again")
    needs = {part: str(plugin) for part, plugin in index.get("plugins", {}).items() if part in names.PARTS}
    return Checkpoint(folder, config, index["step"], index["provenance"], hashes, str(folder), needs)


def find(name: Path | str, registry: Registry) -> Checkpoint:
    """The checkpoint in the folder ``name``, or a plugin's of that name; :class:`FileError` as of :func:`read`."""
    if Path(name).exists() or len(Path(name).parts) > 1:
        return read(name).clear(registry, [OURS])
    try:
        shipped: Checkpoint = registry.create("checkpoints", Spec(str(name)))
    except UnknownName as error:
        raise FileError(f"{name} is not a checkpoint: there is no such folder, and {error}") from error
    return attrs.evolve(shipped, name=str(name))


def newest(folder: Path) -> Path:
    """``folder`` itself, or the newest model of the training run in it."""
    if (folder / INDEX).exists():
        return folder
    return max(folder.glob(f"models/step_*/{INDEX}"), default=folder / INDEX).parent


def save(
    folder: Path | str, config: Config, weights: Weights, ema: Weights | None = None, *, step: int = 0,
    provenance: Mapping[str, Any] | None = None, plugins: Mapping[str, str] | None = None, asked: str | None = None,
) -> Checkpoint:  # fmt: skip
    """Write a new checkpoint; ``plugins`` are those that it needs, ``asked`` is the command's request."""
    folder = Path(folder)
    check_new(folder)
    with new_folder(folder) as scratch:
        states = {WEIGHTS: weights} if ema is None else {WEIGHTS: weights, EMA: ema}
        hashes = {name: write_tensors(scratch / name, state) for name, state in states.items()}
        index = {"format": FORMAT, "version": VERSION, "step": step, "provenance": dict(provenance or {})}
        index |= {"asked": asked} if asked else {}
        index |= {"plugins": dict(plugins)} if plugins else {}
        index |= {"sha256": hashes, "config": config.plain()}
        index[DIGEST] = digest_of(document.load(document.dump(index)))
        (scratch / INDEX).write_text(document.dump(index), encoding="utf-8")
    return read(folder)


def mismatches(own: Weights, found: Weights) -> list[str]:
    """Why ``found`` cannot replace ``own``: one line for each missing, unexpected or wrongly shaped tensor."""
    lines = [f"missing: {name}" for name in own if name not in found]
    lines += [f"unexpected: {name}" for name in found if name not in own]
    for name in own:
        if name in found and own[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} in the file, {tuple(own[name].shape)} in the network"
            lines.append(f"wrong shape: {name}, {shapes}")
    return lines


def check_fit(own: Weights, found: Weights, source: Path, whose: str = "this configuration") -> None:
    """Raise :class:`FileError` if ``found``, which is from ``source``, cannot replace ``own``."""
    if report := mismatches(own, found):
        raise FileError(f"{source} does not fit {whose}: {summary(report)}")


def summary(report: list[str]) -> str:
    """Summarise the lines of :func:`mismatches` in one clause."""
    counts = Counter(line.partition(":")[0] for line in report)
    return ", ".join(f"{number} {what}" for what, number in counts.items()) + f"; the first is {report[0]}"


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    with inputs.whole(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
