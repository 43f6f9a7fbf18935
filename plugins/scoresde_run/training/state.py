"""Training states on disk: all that is needed to resume a run exactly.

    checkpoints/step_000012000/
        state.json              format, version, step, configuration, loss scale, sha256 of the tensors and of itself
        state.safetensors       network.*, average.*, optimizer.<slot>.*, losses

A folder appears whole or not at all (:mod:`scoresde_run.machine.files`). It holds no generator state: the order of the
data, times, noise and dropout follow from (seed, step).
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import FileError
from ..machine import inputs
from ..machine.digest import DIGEST, digest_of
from ..machine.files import discard, new_folder
from ..models.checkpoint import check_fit, file_hash, read_tensors, write_tensors
from ..models.config import Config
from .trainer import TrainingState

FORMAT = "scoresde-training-state"
VERSION = 1
INDEX, TENSORS = "state.json", "state.safetensors"

log = logging.getLogger(__name__)


@attrs.frozen
class Saved:
    """The index of a training state on disk; its tensors are not read yet."""

    folder: Path
    config: Config
    step: int
    counted: int
    scaler: dict[str, Any]
    hash: str
    log: dict[str, Any] | None = None  # the size and sha256 of the run's metrics when it was saved

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors and check their sha256."""
        return read_tensors(self.folder / TENSORS, self.hash, INDEX)


def name_of(step: int) -> str:
    """The folder name of a step; names sort like steps."""
    return f"step_{step:09d}"


def save(folder: Path, state: TrainingState, config: Config, keep: int, metrics: Path | None = None) -> Path:
    """Write ``state`` below ``folder``, then remove all but the newest ``keep`` states.

    The index has the size and sha256 of the ``metrics`` so far, by which its damage is noticed.
    States of later steps must be damaged, or the run would have resumed there: they are not counted and not removed.
    """
    place = folder / name_of(state.step)
    if place.exists():  # damaged, or the same: the run has resumed from an earlier step
        discard(place)
    with new_folder(place) as scratch:
        index = {"format": FORMAT, "version": VERSION, "step": state.step, "counted": state.counted}
        tensors = dict(_places(state))
        names: dict[Tensor, str] = {p: name for name, p in state.network.named_parameters()}
        for parameter, slots in state.optimizer.state.items():
            tensors |= {f"optimizer.{slot}.{names[parameter]}": value for slot, value in slots.items()}
        index |= {"scaler": state.scaler.state_dict(), "sha256": write_tensors(scratch / TENSORS, tensors)}
        if metrics is not None and metrics.exists():
            index["log"] = {"bytes": metrics.stat().st_size, "sha256": file_hash(metrics)}
        index |= {"config": config.plain()}
        (scratch / INDEX).write_text(json.dumps({**index, DIGEST: digest_of(index)}, indent=1), encoding="utf-8")
    drop(folder, state.step, keep)
    return place


def drop(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest ``keep`` states up to ``step``."""
    for old in _folders(folder, step)[keep:]:
        discard(old)


def read(folder: Path) -> Saved:
    """Read the index of one state; :class:`FileError` if it is missing, damaged or of a newer version."""
    path = folder / INDEX
    with inputs.reading(path):
        index = inputs.loads(inputs.text(path))
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise FileError(f"{path} is damaged: it does not say {FORMAT!r}")
        if isinstance(index.get("version"), int) and index["version"] > VERSION:
            newer = f"{path} has version {index['version']}, this scoresde reads up to {VERSION}"
            raise FileError(f"{newer}: upgrade scoresde")
        if index.get(DIGEST) != digest_of(index):
            raise FileError(f"{path} is damaged: its digest does not match its content")
        config = Config.from_plain(index["config"], str(path))
        content = index["step"], index["counted"], index["scaler"], index["sha256"], index.get("log")
        return Saved(folder, config, *content)


def newest(folder: Path) -> tuple[Saved, dict[str, Tensor]] | None:
    """The newest undamaged state below ``folder``, None without states; FileError if all are damaged."""
    found = _folders(folder)
    for place in found:
        try:
            saved = read(place)
            return saved, saved.tensors()
        except FileError as error:
            log.warning("%s; taking the checkpoint before it", error)
    if found:
        raise FileError(f"no checkpoint in {folder} can be read, {len(found)} are damaged: start again with --fresh")
    return None


def latest_step(folder: Path, up_to: int | None = None) -> int | None:
    """The step of the newest state below ``folder`` (at most ``up_to``), by its name; None if there is none."""
    found = _folders(folder, up_to)
    return _step_of(found[0]) if found else None


def restore(state: TrainingState, saved: Saved, tensors: Mapping[str, Tensor]) -> None:
    """Copy a saved state into ``state``, on its device and in its memory layout."""
    own, parameters = dict(_places(state)), dict(state.network.named_parameters())
    check_fit(own, {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}, saved.folder)
    state.optimizer.state.clear()
    with torch.no_grad():
        for name, value in tensors.items():
            if name in own:
                own[name].copy_(value)
            else:
                _, slot, of = name.split(".", 2)
                state.optimizer.state[parameters[of]][slot] = _like(parameters[of], value)
    # A run may begin from a state of another precision, which has no loss scale: ours is kept.
    state.scaler.load_state_dict(saved.scaler or state.scaler.state_dict())
    state.step, state.counted = saved.step, saved.counted


def _places(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state that are changed in place, with their names."""
    for name, value in state.network.state_dict().items():
        yield f"network.{name}", value
    if state.average is not None:
        for name, value in state.average.parameters.items():
            yield f"average.{name}", value
    yield "losses", state.losses


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` on the parameter's device and in its memory layout, which fused optimisers need."""
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)  # a step count; the tensor read is a view of the file
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _folders(folder: Path, up_to: int | None = None) -> list[Path]:
    """Saved states, the newest first."""
    found = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdecimal()]
    return sorted((path for path in found if up_to is None or _step_of(path) <= up_to), key=_step_of, reverse=True)


def _step_of(place: Path) -> int:
    return int(place.name.removeprefix("step_"))
