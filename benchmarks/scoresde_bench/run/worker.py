"""Runs a task in the current process: the command, a worker (:mod:`.serve`), or a job of a cluster."""

import os
from pathlib import Path

import attrs
from scoresde_core import Registry, load_registry
from scoresde_run import Row
from scoresde_run.machine.device import use_tf32
from scoresde_run.machine.environment import facts
from scoresde_run.results.rows import SCHEMA
from ..plan.cells import Cell
from ..plan.suite import read_block
from ..plan.sweep import Sweep
from .cell import Bench, reason_of
from .executor import OnStep, Settings, Task

_benches: dict[Settings, tuple[Bench, Sweep]] = {}


def prepare(settings: Settings, registry: Registry | None = None) -> tuple[Bench, Sweep]:
    """Return what the tasks with ``settings`` share in this process, anew if a ``registry`` is given."""
    if registry is not None or settings not in _benches:
        _benches.clear()
        os.chdir(settings.directory)
        loaded = registry or load_registry(local=settings.registry)
        use_tf32(settings.tf32)
        bench = Bench(loaded, Path(settings.folder), settings.command, settings.tf32, settings.timeout)
        _benches[settings] = bench, Sweep(loaded, settings.device)
    return _benches[settings]


def perform(task: Task, progress: OnStep | None = None) -> Row:
    """Run a task and return its row, with status done, skip or failed."""
    try:
        cell = _cell(task)
    except Exception as error:
        return _failed(task, reason_of(error))
    return prepare(task.settings)[0].run(cell, progress)


def fail(task: Task, reason: str) -> Row:
    """Return a failed row for a task that was lost."""
    try:
        return {**prepare(task.settings)[0].blank(_cell(task)), "status": "failed", "reason": reason}
    except Exception:
        return _failed(task, reason)


def _cell(task: Task) -> Cell:
    """The cell of a task, built if the task is text. Checks its key again, because files may have changed."""
    _, sweep = prepare(task.settings)
    made = task.cell or sweep.cells([read_block(task.request, f"the task {task.key}", [])])[0]
    cell = attrs.evolve(made, files=task.files)
    if cell.key != task.key:
        raise RuntimeError(
            f"the key of this cell is {cell.key} here: source or a file was edited since the command started, or "
            "differs between the machines; repeat the command"
        )
    return cell


def _failed(task: Task, reason: str) -> Row:
    names = {key: value[0] if isinstance(value, list) and value else value for key, value in task.request.items()}
    row: Row = {"schema": SCHEMA, "cell": task.key, "status": "failed", "reason": reason, **names}
    return {**row, "device": task.settings.device, "command": task.settings.command, **facts()}
