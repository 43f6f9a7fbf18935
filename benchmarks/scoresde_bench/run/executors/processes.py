"""Worker processes on this machine, each of which takes the next cell as soon as it is free.

On GPUs a process sees the one it was given; on a CPU the threads are shared out. A worker that dies, be it for want
of memory, by a fault in compiled code or by a signal, takes nothing with it but its cell, which another one does over.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

import attrs
from attrs.validators import ge

from scoresde_core.components import param
from scoresde_run.results.results import Row

from .. import importable
from ..executor import Executor, Started, Task
from ..worker import fail

ATTEMPTS = 2
"""How often a cell is given to a worker before its deaths are the cell's fault."""
GRACE = 30.0
"""Seconds beyond its time limit after which a worker that does not stop by itself is killed."""


@attrs.frozen
class ProcessesExecutor(Executor):
    """``jobs`` processes; by default one a GPU, or one where there is none.

    More processes than GPUs share them, except for cells that must have theirs alone.
    """

    jobs: int | None = param(None, "processes; null: one a GPU", attrs.validators.optional(ge(1)))

    def device(self, name: str) -> str:
        """As for one process; a number is dropped, for each process sees one GPU alone."""
        return super().device(name).partition(":")[0]

    def run(self, tasks: Iterator[Task], *, alone: bool, started: Started) -> Iterator[Row]:
        """A thread for each worker process feeds it; the rows meet in one queue."""
        first = next(tasks, None)
        if first is None:
            return
        places = self._places(first.settings.device, alone)
        pool = _Pool(first, tasks, started)
        workers = [_Worker(place) for place in places]
        threads = [threading.Thread(target=pool.serve, args=(worker,), daemon=True) for worker in workers]
        try:
            for thread in threads:
                thread.start()
            yield from pool.rows(len(threads))
        finally:
            for worker in workers:
                worker.stop()
            for thread in threads:
                thread.join()
            for worker in workers:
                worker.close()

    def _places(self, device: str, alone: bool) -> list[dict[str, str]]:
        """The environment of every worker."""
        gpus = _gpus() if device.startswith("cuda") else []
        if gpus:
            jobs = min(self.jobs or len(gpus), len(gpus)) if alone else self.jobs or len(gpus)
            return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(jobs)]
        jobs = 1 if alone else self.jobs or 1
        threads = max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1
        return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))} for _ in range(jobs)]


def _gpus() -> list[str]:
    """What names the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(count))
    return [name.strip() for name in names][:count]


class _Pool:
    """The tasks of a run on their way to the workers, and the rows on their way back."""

    def __init__(self, first: Task, tasks: Iterator[Task], started: Started) -> None:
        self._first: Task | None = first
        self._tasks, self._started = tasks, started
        self._taking = threading.Lock()
        self._done: queue.SimpleQueue[Row | BaseException | None] = queue.SimpleQueue()

    def rows(self, workers: int) -> Iterator[Row]:
        """The rows, until every worker's thread has said that it is through."""
        while workers:
            found = self._done.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                workers -= 1
            else:
                yield found

    def serve(self, worker: _Worker) -> None:
        """Keep ``worker`` busy until no task is left."""
        try:
            while (task := self._next()) is not None:
                self._done.put(worker.perform(task))
            self._done.put(None)
        except BaseException as error:  # it belongs to whoever waits for the rows
            self._done.put(error)

    def _next(self) -> Task | None:
        with self._taking:
            task, self._first = self._first or next(self._tasks, None), None
            if task is not None:
                self._started(task)
            return task


class _Worker:
    """A process that does tasks, started anew whenever it has died."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **importable.environment(), **environment}
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._starting = threading.Lock()

    def perform(self, task: Task) -> Row:
        """The row of ``task``; where the process dies over it in every attempt, one that says how."""
        limit, code = task.settings.timeout, 0
        for _ in range(ATTEMPTS):
            process = self._ready()
            late = threading.Event()
            timer = threading.Timer((limit or 0.0) + GRACE, lambda p, e: (e.set(), p.kill()), (process, late))
            if limit is not None:
                timer.start()
            line = _ask(process, task)
            timer.cancel()
            if line.endswith("\n"):
                row: Row = json.loads(line)
                return row
            code = self._end()
            if late.is_set():
                return fail(task, f"its process was killed, for it went on long after its --timeout of {limit:g} s")
        return fail(task, _cause(code))

    def stop(self) -> None:
        """End the process for good, in the middle of a cell if need be."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _ready(self) -> subprocess.Popen[str]:
        """The process, which has imported what it needs; starting counts for no cell's time limit."""
        with self._starting:
            if self._stopped:
                raise RuntimeError("the run has ended")
            fresh = self._process is None
            if self._process is None:
                command = [sys.executable, "-m", "scoresde_bench.run.serve"]
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=self._environment)
        process = self._process
        if fresh and process.stdout is not None:
            process.stdout.readline()  # that it is ready; where it dies before, the first question finds out
        return process

    def _end(self) -> int:
        """Take leave of a process that has died; returns its exit code."""
        process = self._process
        if process is None:
            return 0
        process.kill()
        code = process.wait()
        self.close()
        return code

    def close(self) -> None:
        """Close the pipes to a process that has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was left to write has no reader
                    pipe.close()


def _ask(process: subprocess.Popen[str], task: Task) -> str:
    """The line that a worker answers, without its end where it died before."""
    if process.stdin is None or process.stdout is None:
        return ""
    try:
        process.stdin.write(json.dumps(task.plain()) + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return ""


def _cause(code: int) -> str:
    """What a process died of, in words."""
    if code >= 0:
        return f"the worker process ended with exit code {code} in each of {ATTEMPTS} attempts"
    hint = ", which is how a system short of memory ends them: lower --batch-size or --jobs" if code == -9 else ""
    return f"the worker process was ended by signal {-code} in each of {ATTEMPTS} attempts{hint}"
