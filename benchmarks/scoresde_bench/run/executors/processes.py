"""Worker processes on this machine, each of which takes the next cell when it is free.

A process sees one GPU; on a CPU, processes share the threads. If a worker dies (out of memory, a fault in compiled
code, a signal), only its cell is lost, and another worker runs it again.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain
from multiprocessing import Pipe
from typing import Any

import attrs
from attrs.validators import ge, le, optional
from scoresde_core import param
from scoresde_run import Row
from .. import importable
from ..executor import Executor, Started, Task
from ..worker import fail

MOST = 1024  # processes that one command starts
ATTEMPTS = 2  # workers that may die over a cell before it fails
GRACE = 30.0  # seconds after the time limit at which a worker that has not stopped is killed


@attrs.frozen
class ProcessesExecutor(Executor):
    """Runs cells in ``jobs`` processes; by default one per GPU, or one without GPUs.

    More processes than GPUs share them, except while cells measure speed.
    """

    jobs: int | None = param(None, "number of processes; null: one per GPU", optional([ge(1), le(MOST)]))

    def device(self, name: str) -> str:
        """As for one process, without a number, because each process sees one GPU."""
        return super().device(name).partition(":")[0]

    def run(self, tasks: Iterator[Task], *, alone: bool, started: Started) -> Iterator[Row]:
        """Give each task to a free worker, from a thread of its own, and yield rows as they arrive."""
        first = next(tasks, None)
        if first is None:
            return
        workers = [_Worker(place) for place in self._places(first.settings.device, alone)]
        waiting, free, running = chain([first], tasks), list(workers), dict[Future[Row], _Worker]()
        pool = ThreadPoolExecutor(len(workers))
        try:
            while True:
                while free and (task := next(waiting, None)):
                    started(task)
                    worker = free.pop()
                    running[pool.submit(worker.perform, task)] = worker
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    free.append(running.pop(future))
                    yield future.result()
        finally:
            for worker in workers:
                worker.stop()
            pool.shutdown()
            for worker in workers:
                worker.end()

    def _places(self, device: str, alone: bool) -> list[dict[str, str]]:
        if gpus := _gpus() if device.startswith("cuda") else []:
            jobs = min(self.jobs or len(gpus), len(gpus)) if alone else self.jobs or len(gpus)
            return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(jobs)]
        jobs = 1 if alone else self.jobs or 1
        threads = max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1
        return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))} for _ in range(jobs)]


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(count))
    return [name.strip() for name in names][:count]


class _Worker:
    """A process that runs tasks, restarted when it has died."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **importable.environment(), **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._starting = threading.Lock()

    def perform(self, task: Task) -> Row:
        """Return the row of ``task``; a failed one if the process dies in every attempt."""
        limit, code = task.settings.timeout, 0
        for _ in range(ATTEMPTS):
            self._start()
            try:
                self._pipe.send(task.plain())
                if self._pipe.poll(None if limit is None else limit + GRACE):
                    row: Row = json.loads(self._pipe.recv())
                    return row
                self.end()
                return fail(task, f"killed because it did not stop at its --timeout of {limit:g} s")
            except (EOFError, OSError):  # it died
                code = self.end()
        if code >= 0:
            return fail(task, f"the worker process exited with code {code} in each of {ATTEMPTS} attempts")
        hint = ", probably because memory ran out: lower --batch-size or --jobs" if code == -9 else ""
        return fail(task, f"the worker process was killed by signal {-code} in each of {ATTEMPTS} attempts{hint}")

    def stop(self) -> None:
        """Kill the process, even in the middle of a cell; no other is started."""
        with self._starting:
            self._stopped = True
            if (process := self._process) is not None:
                process.kill()

    def end(self) -> int:
        """Reap a process that has died or is to, close its connection, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        self._pipe.close()
        return process.wait()

    def _start(self) -> None:
        """Start the process unless it runs, and wait for its imports, which do not count for a cell's time limit."""
        with self._starting:
            if self._stopped:
                raise RuntimeError("the run has ended")
            if self._process is not None:
                return
            self._pipe, theirs = Pipe()
            with theirs:
                command = [sys.executable, "-m", "scoresde_bench.run.serve", str(theirs.fileno())]
                how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "pass_fds": [theirs.fileno()]}
                self._process = subprocess.Popen(command, env=self._environment, **how)
        with suppress(EOFError, OSError):  # if the process has died, the first task notices
            self._pipe.recv()
