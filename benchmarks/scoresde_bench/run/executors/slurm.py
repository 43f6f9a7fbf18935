"""Runs cells on a Slurm cluster through submitit (https://github.com/facebookincubator/submitit), as an array of jobs.

Jobs write the rows of their cells to the folder of results, which the nodes must share, and the submitting command
collects them. Jobs continue when that command ends; the same command then finds running jobs in ``slurm/jobs.jsonl``,
collects finished rows, and submits only cells that no job is running.

A job is recorded before it is submitted, under a name of its own that the cluster (or, for local processes, their
environment) shows while it exists. So a kill at any moment neither loses a job nor submits it twice, and a job that has
ended is never taken for another one with its number.
"""

import getpass
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import attrs
from attrs.validators import ge, gt, le, optional
from scoresde_core import FileError, ScoreSDEError, param
from scoresde_run.results.results import ARRIVED, Row, leave, read_arrived
from .. import importable
from ..executor import Executor, Started, Task
from ..worker import fail, perform

MARK = "SCORESDE_JOB"  # the environment variable of local processes that has the name of their job
PATIENCE = 2  # consecutive polls without the job and its row after which a cell counts as lost


@attrs.frozen
class SlurmExecutor(Executor):
    """Runs jobs of ``cells`` cells each, at most ``jobs`` at a time.

    ``cluster=local`` runs the same jobs as processes on this machine, for testing. A cell that measures speed has its
    GPU, or without GPUs its node, to itself.
    """

    jobs: int = param(64, "jobs running at a time", ge(1))
    cells: int = param(1, "cells per job", ge(1))
    partition: str | None = param(None, "partition; null: the cluster's default")
    account: str | None = param(None, "account to charge")
    minutes: int = param(60, "time limit of a job", ge(1))
    gpus: int = param(0, "GPUs per job: 0 for a CPU, 1", ge(0))
    cpus: int = param(1, "CPU cores per job", ge(1))
    memory_gb: float | None = param(None, "memory per job; null: the cluster's default", optional(gt(0)))
    setup: tuple[str, ...] = param((), "shell commands to run before a job, such as [module load cuda]")
    poll: float = param(5.0, "seconds between polls for finished rows", [gt(0), le(3600)])
    cluster: Literal["slurm", "local"] = param("slurm", "slurm, or local processes in place of its jobs")

    def device(self, name: str) -> str:
        """``cuda`` if jobs have a GPU, unless another device is named; not checked, as it is on another machine."""
        return ("cuda" if self.gpus else "cpu") if name == "auto" else name.partition(":")[0]

    @property
    def here(self) -> bool:
        return self.cluster == "local"

    def run(self, tasks: Iterator[Task], *, alone: bool, started: Started) -> Iterator[Row]:
        """Submit all tasks at once, since the cluster has its own queue, and wait for those submitted earlier too."""
        left = {task.key: task for task in tasks}
        if not left:
            return
        folder = Path(next(iter(left.values())).settings.folder)
        queue = _Queue(folder / "slurm", self.cluster)
        jobs: list[Any] = []
        if new := [task for key, task in left.items() if not queue.running(key)]:
            name = f"scoresde-bench-{secrets.token_hex(4)}"
            parts = [new[start : start + self.cells] for start in range(0, len(new), self.cells)]
            queue.add(name, parts)
            jobs = self._submit(queue.folder / name, parts, alone)
        for task in left.values():
            started(task)
        while left:
            for key, row in queue.look(left):
                yield row
                (folder / ARRIVED / f"{key}.json").unlink(missing_ok=True)  # the caller has written it
                del left[key]
            if left:
                time.sleep(self.poll)
        if self.here:
            for job in jobs:
                job.wait()  # reap the process, whose rows have all arrived

    def _submit(self, folder: Path, parts: Sequence[Sequence[Task]], alone: bool) -> list[Any]:
        """Submit one job per part, with its files in ``folder`` and named after it; returns submitit's jobs."""
        import submitit

        wanted = {"timeout_min": self.minutes, "cpus_per_task": self.cpus, "name": folder.name}
        wanted |= {"gpus_per_node": self.gpus or None, "mem_gb": self.memory_gb}
        if self.cluster == "slurm":
            wanted |= {"slurm_partition": self.partition, "slurm_account": self.account}
            wanted |= {"slurm_setup": list(self.setup) or None, "slurm_exclusive": (alone and not self.gpus) or None}
            wanted |= {"slurm_array_parallelism": self.jobs, "slurm_use_srun": False}
        jobs, chunks = list[Any](), [Chunk(part) for part in parts]
        arrays = {folder: chunks}
        if self.here:  # each with a mark of its own
            arrays = {folder / str(number): [chunk] for number, chunk in enumerate(chunks)}
        try:
            with patch.dict(os.environ, importable.environment()):  # of the processes that submitit starts
                for place, array in arrays.items():
                    os.environ |= {MARK: f"{folder.name}_{place.name}"} if self.here else {}
                    executor = submitit.AutoExecutor(place, cluster=self.cluster)
                    executor.update_parameters(**{name: to for name, to in wanted.items() if to is not None})
                    jobs += executor.submit_array(array)
        except Exception as error:  # from submitit, sbatch or the system
            raise ScoreSDEError(f"cannot submit to {self.cluster}: {' '.join(str(error).split())}") from error
        return jobs


class Chunk:
    """The work of a job: its tasks one after another. A restarted job continues with the tasks that are left."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = [task.plain() for task in tasks]

    def __call__(self) -> None:
        from scoresde_run.machine.device import keep_freed_memory

        keep_freed_memory()
        while self.tasks:
            task = Task.from_plain(self.tasks[0])
            leave(perform(task), Path(task.settings.folder))
            self.tasks.pop(0)

    def checkpoint(self) -> Any:
        """Return the remaining tasks, which submitit submits again when the job is preempted or out of time."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _Queue:
    """The jobs submitted for a folder of results, and which of them still exist."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self.cluster = folder, cluster
        self._record = folder / "jobs.jsonl"
        self._job_of: dict[str, str] = {}
        self._missed: dict[str, int] = {}
        text = self._record.read_text(encoding="utf-8", errors="replace") if self._record.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut short: nothing was submitted
                entry = json.loads(line)
                if entry["cluster"] == cluster:
                    self._job_of |= dict.fromkeys(entry["cells"], str(entry["job"]))
        self._alive = self._ask() if self._job_of else set()

    def running(self, key: str) -> bool:
        return self._job_of.get(key) in self._alive

    def add(self, name: str, parts: Sequence[Sequence[Task]]) -> None:
        """Record on disk which cells the jobs that are to be submitted will run; job n is ``NAME_n``."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        jobs = {f"{name}_{number}": [task.key for task in part] for number, part in enumerate(parts)}
        lines = [json.dumps({"job": job, "cluster": self.cluster, "cells": keys}) for job, keys in jobs.items()]
        with self._record.open("a", encoding="utf-8") as file:
            file.write("\n" * bool(file.tell()) + "\n".join(lines) + "\n")  # after a torn line, on a new one
            file.flush()
            os.fsync(file.fileno())
        self._job_of |= {key: job for job, keys in jobs.items() for key in keys}

    def look(self, left: dict[str, Task]) -> Iterator[tuple[str, Row]]:
        """Yield rows that have arrived, and failed rows for cells whose job ended without one."""
        self._alive = self._ask()  # before looking for rows: a job that ends in between has written its own
        for key, task in list(left.items()):
            path = self.folder.parent / ARRIVED / f"{key}.json"
            if path.exists():
                try:
                    yield key, read_arrived(path)
                except FileError as error:
                    yield key, fail(task, str(error))
            elif not self.running(key):
                self._missed[key] = self._missed.get(key, 0) + 1
                if self._missed[key] >= PATIENCE:
                    yield key, fail(task, self._reason(self._job_of[key]))

    def _ask(self) -> set[str]:
        if self.cluster == "local":
            return _marks()
        command = ["squeue", "--noheader", "--array", "--format=%i %j", f"--user={getpass.getuser()}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except FileNotFoundError as error:
            raise ScoreSDEError("squeue not found: run this on a machine of the Slurm cluster") from error
        except subprocess.SubprocessError:
            return set(self._job_of.values())  # Slurm does not answer: ask again later
        listed = [line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip()]
        # A single job is no array. Earlier versions recorded Slurm's numbers.
        return {f"{name.strip()}_{number.partition('_')[2] or 0}" for number, name in listed} | {n for n, _ in listed}

    def _reason(self, job: str) -> str:
        """Why a job wrote no row, from the end of its log."""
        name, _, number = job.rpartition("_")
        own = [*(self.folder / name / number).glob("*.err"), *(self.folder / name).glob(f"*_{number}_*_log.err")]
        logs = sorted(own or (self.folder / name).glob("*_log.err"))  # a single job is no array
        lines = logs[-1].read_text(encoding="utf-8", errors="replace").strip().splitlines() if logs else []
        return f"its job {job} ended without a row: {lines[-1].strip() if lines else 'its log is empty'}"


def _marks() -> set[str]:
    """The names of the jobs of local processes that exist; a zombie has no environment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            known = dict(entry.partition(b"=")[::2] for entry in path.read_bytes().split(b"\0"))
            found.add(known.get(MARK.encode(), b"").decode(errors="replace"))
    return found
