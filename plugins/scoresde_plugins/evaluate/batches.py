"""Batches distributed over processes; finished batches are files, so none is computed twice.

The number of a batch determines its process, whichever batches are finished already. A failure of one process is sent
to all, so none waits for another that is gone.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

import torch
from scoresde_core import FileError, ScoreSDEError, UsageError
from scoresde_core.plugins import one_line
from scoresde_run.machine.device import keep_freed_memory, use_tf32
from scoresde_run.machine.processes import Processes, joined
from scoresde_run.machine.progress import Progress
from .measure import Measure, MeasuredModel

T = TypeVar("T")


class Failed(ScoreSDEError):
    """The failure of a process; ``trace`` is its traceback."""

    trace = ""

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """Convert the exception being handled, its reason on one line."""
        if isinstance(error, torch.OutOfMemoryError):
            reason = f"out of memory: lower --batch-size ({one_line(error)})"
        else:
            reason = str(error) if isinstance(error, ScoreSDEError) else one_line(error)
        found = cls(reason)
        found.trace = traceback.format_exc()
        return found


def run_together(device: str, prepare: Callable[[Processes, ExitStack], Callable[[], int]]) -> int:
    """Run what ``prepare`` returns in every process; return the exit code.

    All processes raise the same errors; only process 0 reports them.
    """
    keep_freed_memory()
    use_tf32(False)
    with ExitStack() as stack:
        try:
            return prepare(stack.enter_context(joined(device)), stack)()
        except (UsageError, FileError, Failed) as error:
            if os.environ.get("RANK", "0") == "0":
                raise
            raise SystemExit(error.exit_code) from error


def compute(
    measures: Sequence[Measure], model: MeasuredModel, processes: Processes, progress: Progress, name: str
) -> dict[str, Failed]:
    """Compute the batches that do not exist yet; return failures by title. ``name`` is that of the model."""
    batches = [(measure, k) for measure in measures for k in range(measure.count)]
    failed: dict[str, Failed] = {}
    for measure, k in batches[processes.rank :: processes.count]:
        if measure.title in failed:
            continue
        progress.batch(f"{name}: {measure.title}", k, measure.count)
        parts = model.parts_of(measure)
        try:
            if not parts.has(k):
                started = time.perf_counter()
                part = measure.measure(k, model)
                part.record.setdefault("seconds", time.perf_counter() - started)
                parts.save(k, part)
        except Exception as error:
            failed[measure.title] = Failed.of(error)
    return {title: failure for found in reversed(processes.exchange(failed)) for title, failure in found.items()}


def together(processes: Processes, work: Callable[[], T]) -> T:
    """Call ``work()`` in every process; if one fails, all raise :class:`Failed` with its reason."""
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = Failed.of(error)
    for found in processes.exchange(failure):
        if found is not None:
            raise found
    return result  # type: ignore[return-value]
