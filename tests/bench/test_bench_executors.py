"""Executors: worker processes, submitit, Slurm, third parties; and the effects of kills."""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest
from long import kill_sweep
from runs import rows_in
from scoresde_bench.cli import main
from scoresde_bench.run.executors.processes import ProcessesExecutor

ROOT = Path(__file__).parents[2]
CELLS = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap", "--sde", "vp", "--steps", "5,6,7,8"]
TIMINGS = ("seconds", "samples_per_second", "cell_seconds", "evaluation_seconds", "peak_memory_bytes")
PASSING = {*TIMINGS, "date", "command", "git", "digest", "device"}  # the device's text says how many threads it had
PARTS = """
import os, signal
import attrs
from scoresde_core import Predictor
from scoresde_bench.run.executor import Executor
from scoresde_bench.run.worker import perform

@attrs.frozen
class Deadly(Predictor):
    "Ends its process, the first time alone where there is a file to remember it by."
    marker: str | None = None
    def step(self, x, step, model, noise):
        if self.marker is None or not os.path.exists(self.marker):
            if self.marker is not None:
                open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return x * 0.5, x * 0.5

@attrs.frozen
class Chatty(Predictor):
    def step(self, x, step, model, noise):
        print("a plugin says something")
        return x * 0.5, x * 0.5

@attrs.frozen
class Stuck(Predictor):
    "Swallows its time limit, again and again."
    def step(self, x, step, model, noise):
        import time
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass

@attrs.frozen
class BackwardExecutor(Executor):
    "The last cell first."
    def run(self, tasks, *, alone, started):
        yield from map(perform, reversed(list(tasks)))
"""
ROWS = """
api: 1
predictors:
  deadly: {target: 'odd_parts:Deadly'}
  chatty: {target: 'odd_parts:Chatty'}
  stuck: {target: 'odd_parts:Stuck'}
executors:
  backward: {target: 'odd_parts:BackwardExecutor', summary: the last cell first}
"""


def cells_in(folder: Path) -> dict[str, dict]:
    """The row of every cell; each has exactly one."""
    rows = rows_in(folder)
    found = {row["cell"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def lasting(rows: dict[str, dict]) -> dict[str, dict]:
    """The entries that do not depend on time."""
    return {key: {name: value for name, value in row.items() if name not in PASSING} for key, row in rows.items()}


@pytest.fixture
def bench(bench, tmp_path):
    """Runs the command line in a folder with odd components; returns (exit code, stdout, stderr)."""
    (tmp_path / "odd_parts.py").write_text(PARTS)
    (tmp_path / "odd.yaml").write_text(ROWS)
    return lambda *arguments: bench(*arguments, "--registry", "odd.yaml")


class TestProcesses:
    def test_rows_are_those_of_one_process(self, bench, tmp_path):
        assert bench(*CELLS, "--out", "one")[0] == 0
        code, out, _ = bench(*CELLS, "--jobs", "2", "--predictor", "reverse_diffusion", "chatty", "--out", "two")
        assert code == 0
        two = cells_in(tmp_path / "two")
        assert len(two) == 8
        plain = {key: row for key, row in two.items() if row["predictor"] == "reverse_diffusion"}
        assert lasting(plain) == lasting(cells_in(tmp_path / "one"))
        assert all((tmp_path / "two" / row["picture"]).is_file() for row in two.values())
        assert "a plugin says" not in out

    def test_a_worker_that_dies_takes_only_its_cell_and_that_once(self, bench, tmp_path):
        predictors = ["ddim", "deadly", "deadly[marker=once]"]
        cells = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap", "--sde", "vp", "--steps", "5"]
        code, out, _ = bench(*cells, "--predictor", *predictors, "--jobs", "2", "--out", "here")
        rows = {row["predictor"]: row for row in cells_in(tmp_path / "here").values()}
        assert code == 1
        assert {name: row["status"] for name, row in rows.items()} == {
            "ddim": "done",
            "deadly": "failed",
            "deadly[marker=once]": "done",
        }
        assert "killed by signal 9 in each of 2 attempts" in rows["deadly"]["reason"]
        assert rows["deadly"]["parameters"]["sde"]["beta_max"] == 20.0
        assert "signal 9" in out

    def test_a_cell_deaf_to_its_time_limit_is_killed(self, bench, tmp_path, monkeypatch):
        from scoresde_bench.run.executors import processes

        monkeypatch.setattr(processes, "GRACE", 1.0)
        cells = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap", "--sde", "vp", "--steps", "5"]
        where = ["--executor", "processes[jobs=1]", "--timeout", "5", "--out", "here"]
        assert bench(*cells, "--predictor", "stuck", *where)[0] == 1
        (row,) = cells_in(tmp_path / "here").values()
        assert row["status"] == "failed"
        assert "did not stop at its --timeout of 5 s" in row["reason"]

    def test_cells_that_measure_speed_run_alone(self, monkeypatch):
        """One at a time on a CPU, one per GPU otherwise, for any ``jobs``."""
        from scoresde_bench.run.executors import processes

        many = ProcessesExecutor(jobs=5)
        assert len(many._places("cpu", alone=False)) == 5
        assert len(many._places("cpu", alone=True)) == 1
        monkeypatch.setattr(processes, "_gpus", lambda: ["0", "3"])
        assert [place["CUDA_VISIBLE_DEVICES"] for place in many._places("cuda", alone=True)] == ["0", "3"]
        shared = [place["CUDA_VISIBLE_DEVICES"] for place in many._places("cuda", alone=False)]
        assert shared == ["0", "3", "0", "3", "0"]
        assert len(ProcessesExecutor()._places("cuda", alone=False)) == 2

    def test_cells_that_measure_speed_come_last_and_have_keys_of_their_own(self, bench, tmp_path):
        (tmp_path / "mine.yaml").write_text(
            "format: 1\nblocks:\n"
            "  - {target: mixture2d, sde: vp, steps: 5, samples: 64, evaluator: nll_gap, timing: true}\n"
            "  - {target: mixture2d, sde: vp, steps: 5, samples: 64, evaluator: nll_gap}\n"
        )
        assert bench("--suite", "mine.yaml", "--out", "here")[0] == 0
        assert [row["timing"] for row in cells_in(tmp_path / "here").values()] == [False, True]


def test_a_third_party_registers_an_executor(bench, tmp_path, capsys):
    from scoresde_run.commands.shell import main as scoresde

    bench(*CELLS, "--out", "there")
    assert bench(*CELLS, "--executor", "backward", "--out", "here")[0] == 0
    here, there = cells_in(tmp_path / "here"), cells_in(tmp_path / "there")
    assert list(here) == list(there)[::-1]
    assert lasting(here) == lasting(there)
    assert scoresde(["list", "executors", "--registry", "odd.yaml"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("local", "processes", "slurm", "backward"))


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs submitit")
class TestSubmitit:
    WHERE = ("--executor", "slurm[cluster=local,cells=2,poll=0.2]")

    def test_jobs_outlive_the_command_and_are_collected_by_the_next(self, bench, tmp_path):
        """The rows equal those of one process."""
        assert bench(*CELLS, "--out", "one")[0] == 0
        words = [*CELLS, *self.WHERE, "--registry", "odd.yaml", "--out", "here"]
        first = subprocess.Popen([sys.executable, "-m", "scoresde_bench", *words], stdout=subprocess.DEVNULL)
        record = tmp_path / "here" / "slurm" / "jobs.jsonl"
        while len(list((tmp_path / "here" / "slurm").glob("*/*/*_submitted.pkl"))) < 2:
            time.sleep(0.02)
            assert first.poll() is None
        first.kill()
        first.wait()
        assert main(words) == 0
        assert lasting(cells_in(tmp_path / "here")) == lasting(cells_in(tmp_path / "one"))
        # Nothing was submitted again.
        assert [len(json.loads(line)["cells"]) for line in record.read_text().splitlines()] == [2, 2]
        assert not os.listdir(tmp_path / "here" / "arrived")

    def test_a_kill_before_a_job_starts_leaves_its_cells_to_the_next_command(self, bench, tmp_path):
        """The intent is on record, with a line that the kill cut short after it; no such job exists."""
        cells = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap", "--sde", "vp", "--steps", "5"]
        key = bench(*cells, "--dry-run")[1].split()[0]
        record = tmp_path / "here" / "slurm" / "jobs.jsonl"
        record.parent.mkdir(parents=True)
        intent = json.dumps({"job": "scoresde-bench-0_0", "cluster": "local", "cells": [key]})
        old = json.dumps({"job": str(os.getpid()), "cluster": "local", "cells": [key]})  # now another process
        record.write_text(f'{intent}\n{old}\n{{"job": "scoresde-be')
        assert bench(*cells, *self.WHERE, "--out", "here")[0] == 0
        assert [row["status"] for row in rows_in(tmp_path / "here")] == ["done"]
        assert json.loads(record.read_text().splitlines()[-1])["cells"] == [key]

    def test_a_job_in_the_queue_is_not_submitted_again(self, tmp_path, monkeypatch):
        """Jobs are known by name: of an array, of a single job, and by the number that earlier versions recorded."""
        from scoresde_bench.run.executors.slurm import _Queue

        jobs = {"n-1_0": "a", "n-1_1": "b", "n-1_2": "c", "n-2_0": "d", "n-3_0": "e", "77_1": "f", "78": "g"}
        lines = [json.dumps({"job": job, "cluster": "slurm", "cells": [cell]}) for job, cell in jobs.items()]
        (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
        (tmp_path / "squeue").write_text("#!/bin/sh\nprintf '8_0 n-1\\n8_2 n-1\\n9 n-2\\n77_1 old\\n79 n 4\\n'\n")
        (tmp_path / "squeue").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        queue = _Queue(tmp_path, "slurm")
        assert {cell for cell in jobs.values() if queue.running(cell)} == {"a", "c", "d", "f"}

    def test_a_job_that_dies_is_a_row(self, bench, tmp_path):
        cells = ["--target", "mixture2d", "--samples", "64", "--evaluator", "nll_gap", "--sde", "vp", "--steps", "5"]
        code, _, _ = bench(*cells, "--predictor", "deadly", *self.WHERE, "--out", "here")
        (row,) = cells_in(tmp_path / "here").values()
        assert (code, row["status"]) == (1, "failed")
        assert "ended without a row" in row["reason"]

    def test_a_preempted_job_goes_on_where_it_was(self, tmp_path):
        """The resubmitted job has the remaining cells."""
        import pickle

        from scoresde_bench.run.executor import Settings, Task
        from scoresde_bench.run.executors.slurm import Chunk

        chunk = Chunk([Task(key, key, {}, Settings(str(tmp_path), str(tmp_path))) for key in ("a", "b", "c")])
        chunk.tasks.pop(0)
        again = pickle.loads(pickle.dumps(chunk.checkpoint()))
        assert [task["key"] for task in again.function.tasks] == ["b", "c"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm cluster on this machine."""
    if shutil.which("sbatch") is None or importlib.util.find_spec("submitit") is None or os.getuid() != 0:
        pytest.skip("needs sbatch (Debian: slurm-wlm, munge), submitit and root")
    folder, script = tmp_path_factory.mktemp("slurm"), str(Path(__file__).with_name("single_node_slurm.sh"))
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin"
    ports = {"SLURMCTLD_PORT": str(20000 + os.getpid() % 20000), "SLURMD_PORT": str(40001 + os.getpid() % 20000)}
    environment = {**os.environ, "PATH": path, **ports}
    begun = subprocess.run(
        [script, "start", folder], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if begun.returncode:
        pytest.skip(f"Slurm does not start here: {' '.join(begun.stderr.split())[-200:]}")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    del os.environ["SLURM_CONF"]
    subprocess.run([script, "stop", folder], env=environment, timeout=60, check=True)


@pytest.mark.usefixtures("slurm")
def test_a_real_slurm(bench, tmp_path):
    """An array of two jobs, one of which dies: a row for each, with the reason."""
    cells = [*CELLS[:-1], "5"]
    assert bench(*cells, "--out", "one")[0] == 0
    words = ["--predictor", "reverse_diffusion", "deadly", "--executor", "slurm[poll=0.5,jobs=2]"]
    code, _, _ = bench(*cells, *words, "--out", "two")
    rows = {row["predictor"]: row for row in cells_in(tmp_path / "two").values()}
    done = rows["reverse_diffusion"]
    assert (code, rows["deadly"]["status"]) == (1, "failed")
    assert "ended without a row" in rows["deadly"]["reason"]
    assert lasting({done["cell"]: done}) == lasting(cells_in(tmp_path / "one"))


def test_a_kill_in_the_middle_loses_and_doubles_no_row(tmp_path, monkeypatch):
    """The command is killed while its workers run, and repeated; ``kill_sweep.py`` kills at random times."""
    monkeypatch.chdir(tmp_path)  # in a checkout -m imports the packages that lie there, whose source has other keys
    arguments = argparse.Namespace(steps=50, seeds=1, jobs=2)
    process = kill_sweep.start(kill_sweep.command(arguments, tmp_path / "here"))
    results = tmp_path / "here" / "results.jsonl"
    while not results.exists() or not results.read_text().endswith("\n"):
        time.sleep(0.005)
        assert process.poll() is None
    workers = kill_sweep.workers_of(process.pid)
    process.kill()
    process.communicate()
    assert len(workers) == 2
    assert not kill_sweep.outlived(workers)
    before = len(rows_in(tmp_path / "here"))
    assert before < 8
    for folder in ("here", "undisturbed"):
        again = kill_sweep.command(arguments, tmp_path / folder)[3:]
        assert main(again) == 0  # as many threads a cell: a row states them
    found, expected = (kill_sweep.content(tmp_path / folder) for folder in ("here", "undisturbed"))
    assert len(found) == len(expected) == 8
    assert all(row in expected for row in found)


def test_a_worker_ends_with_the_one_who_feeds_it():
    """Its connection ends with its parent, even in the middle of a cell."""
    ours, theirs = Pipe()
    with theirs:
        command = [sys.executable, "-m", "scoresde_bench.run.serve", str(theirs.fileno())]
        worker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    ours.close()
    assert worker.wait(timeout=120) == 0
    assert worker.returncode != -signal.SIGKILL


class TestWorkingFolder:
    """Files in the working folder never replace modules of Python or a package."""

    TRAP = "raise SystemExit('imported from the working folder')\n"
    NAMES = ("code", "queue", "socket", "statistics", "uuid", "yaml", "torchdiffeq")
    ASKED = ("--target", "mixture2d", "--sde", "vp", "--sampler", "ode", "pc", "--steps", "4", "--samples", "32",
             "--evaluator", "nll_gap")  # fmt: skip

    @pytest.fixture
    def trapped(self, tmp_path):
        """A folder with such names, and a local registry file with its module."""
        for name in self.NAMES:
            (tmp_path / f"{name}.py").write_text(self.TRAP)
        (tmp_path / "odd_parts.py").write_text(PARTS)
        (tmp_path / "odd.yaml").write_text(ROWS)
        return tmp_path

    @pytest.mark.parametrize("executor", ["local", "processes[jobs=1]", "slurm[cluster=local,cells=2]"])
    def test_started_by_dash_m(self, trapped, executor):
        """A local registry file still finds its module there."""
        given = (*self.ASKED, "--predictor", "chatty", "--registry", "odd.yaml", "--executor", executor)
        done = self.run("-m", "scoresde_bench", *given, folder=trapped)
        assert done.returncode == 0, done.stderr
        assert [row["status"] for row in rows_in(trapped / "here")] == ["done", "done"]

    def test_the_folder_is_left_out_unless_a_package_is_in_it(self, trapped):
        """For a program started by ``python -c``, as in a checkout that is not installed."""
        program = (
            "import sys; here = sys.path.pop(0); from scoresde_bench.run.importable import environment; "
            "sys.path.insert(0, here); print(environment()['PYTHONPATH'])"
        )
        checkout = os.pathsep.join(map(str, (trapped / "first", ROOT / "benchmarks", ROOT / "plugins", ROOT)))
        for folder, kept in ((trapped, False), (ROOT / "benchmarks", True), (ROOT, True)):
            done = self.run("-c", program, folder=folder, out=(), PYTHONPATH=checkout)
            assert done.returncode == 0, done.stderr
            first = done.stdout.strip().split(os.pathsep)[0]
            assert (Path(first).resolve() == folder.resolve()) == kept

    @staticmethod
    def run(*arguments, folder, out=("--out", "here"), **environment):
        return subprocess.run(
            [sys.executable, *arguments, *out],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
