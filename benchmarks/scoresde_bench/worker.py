"""Doing a task, in whatever process it has come to; and the process that does them one after another.

    python -m scoresde_bench.worker        says "ready"; then a task in JSON on stdin, its row on stdout

The process ends as soon as its stdin does, in the middle of a cell if need be: when the one who gave the tasks is
gone, even by a signal that nobody can catch, nothing is left running.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from scoresde_core.registry import Registry, load_registry

from .cells import SCHEMA, Cell
from .environment import facts
from .executor import Progress, Settings, Task
from .results import Row, to_json
from .run import Bench, reason_of
from .suite import read_block
from .sweep import Sweep

READY = "ready"
_benches: dict[Settings, tuple[Bench, Sweep]] = {}


def prepare(settings: Settings, registry: Registry | None = None) -> tuple[Bench, Sweep]:
    """What the tasks with these settings share in this process; a ``registry`` begins afresh with that one."""
    if registry is not None or settings not in _benches:
        _benches.clear()
        os.chdir(settings.directory)
        loaded = registry or load_registry(local=settings.registry)
        if settings.tf32:
            import torch

            torch.set_float32_matmul_precision("high")
        _benches[settings] = (
            Bench(loaded, Path(settings.folder), settings.command, settings.tf32, settings.timeout),
            Sweep(loaded, settings.device),
        )
    return _benches[settings]


def perform(task: Task, progress: Progress | None = None) -> Row:
    """The row of a task, with status done, skip or failed."""
    try:
        bench, _ = prepare(task.settings)
        cell = _cell(task)
    except Exception as error:
        return _failed(task, reason_of(error))
    return bench.run(cell, progress)


def fail(task: Task, reason: str) -> Row:
    """The row of a task that was lost on its way."""
    try:
        bench, _ = prepare(task.settings)
        return {**bench.blank(_cell(task)), "status": "failed", "reason": reason}
    except Exception:
        return _failed(task, reason)


def _cell(task: Task) -> Cell:
    problems: list[str] = []
    block = read_block(task.request, f"the task {task.key}", problems)
    (cell,) = prepare(task.settings)[1].cells([block])
    if cell.key != task.key:
        raise RuntimeError(
            f"this process makes another cell of the same names ({cell.key}): "
            "use the same versions, plugins and files wherever cells run"
        )
    return cell


def _failed(task: Task, reason: str) -> Row:
    """A row with what is known of a cell that cannot even be built here."""
    names = {key: value[0] if isinstance(value, list) and value else value for key, value in task.request.items()}
    numbers: Row = {axis: int(names[axis]) for axis in ("steps", "seed") if axis in names}
    row: Row = {"schema": SCHEMA, "cell": task.key, "status": "failed", "reason": reason, **names, **numbers}
    return {**row, "device": task.settings.device, "command": task.settings.command, **facts()}


def main() -> None:
    """Do the tasks that come on stdin until it ends."""
    from scoresde_core.device import keep_freed_memory

    keep_freed_memory()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a plugin prints is no answer
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    print(READY, file=answers, flush=True)
    while True:
        row = perform(Task.from_plain(tasks.get()))
        print(to_json(row), file=answers, flush=True)


def _listen(tasks: queue.SimpleQueue[Any]) -> None:
    """Reads ahead, so that the end of stdin is noticed while a cell runs."""
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
