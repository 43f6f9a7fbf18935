"""A killed evaluation is resumed to the same bits; two processes give the bits of one."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from third_party import ASKED as THEIRS
from third_party import metrics_of_the_page, rows_of
from scoresde_core.errors import FileError
from scoresde_plugins.evaluate.measure import Part, Parts
from scoresde_run.commands.shell import main
from scoresde_run.machine import files as machine_files
from scoresde_run.training.state import name_of

KILLS = int(os.environ.get("SCORESDE_TEST_KILLS", "3"))
CHANGES = ["model.network=mlp[width=16]", "model.shape=[1,8,8]", "training.batch_size=12", "training.iterations=10",
           "training.evaluate_every=5", "training.resume_every=10", "training.snapshot_every=5",
           "sampling.sampler=pc[predictor=reverse_diffusion,corrector=langevin,steps=3]", "sampling.n=2"]  # fmt: skip
FEATURES = [f"{kind}[features=identity]" for kind in ("frechet", "kernel", "precision_recall")]
ASKED = ["evaluate", "run", "--models", "all", "--loss", "--likelihood", "--evaluator", "sliced_wasserstein", "moments",
         *FEATURES, *THEIRS, "--registry", "my_metrics.yaml",
         "--target", "gaussian[shape=[1,8,8]]", "--samples", "50", "--batch-size", "7", "--repeats", "2",
         "--tolerance", "1e-2", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of two models, and the evaluation ``straight`` that nobody stopped."""
    folder = tmp_path_factory.mktemp("evaluate")
    np.savez(folder / "tiny.npz", images=np.random.default_rng(0).integers(0, 256, (90, 8, 8, 1), dtype=np.uint8))
    data = f"data.dataset=npz[path={folder}/tiny.npz,test_share=0.5]"
    metrics_of_the_page(folder)
    command = ["train", "mnist_vp", data, *CHANGES, "--out", str(folder / "run"), "--device", "cpu"]
    assert main([*command, "--log-level", "error"]) == 0
    with contextlib.chdir(folder):  # to come back after it
        evaluate(folder, "straight")
    return folder


def evaluate(folder: Path, out: str, die_in: str = "", after: int = 0) -> None:
    """The command, in a process of its own or not; ``die_in`` is the function of ``files`` that kills it."""
    os.chdir(folder)
    torch.set_num_threads(1)
    if die_in:
        _deadly(die_in, after)
    code = main([*ASKED, "--out", out])
    if code:
        sys.exit(code)


def _deadly(name: str, after: int) -> None:
    """SIGKILL in the middle of the ``after``-th call: with half of the file written, or just before it appears."""
    original, calls = getattr(machine_files, name), 0

    def die(path, content):
        nonlocal calls
        calls += 1
        if calls == after:
            data = content if isinstance(content, bytes) else content.encode()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.{os.getpid()}.part").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, content)

    setattr(machine_files, name, die)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every finished batch, and what tells whether it was written again."""
    found = folder.glob("parts/*/*.safetensors")
    return {f"{p.parent.name}/{p.name}": (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def same(folder: Path, other: Path) -> None:
    """Every tensor and every metric, bit by bit."""
    assert files(folder).keys() == files(other).keys()
    assert {name.partition("-")[0] for name in files(folder)} == {
        "loss",
        "likelihood",
        "samples",
        "features",
        "judgement",
    }
    for name in files(folder):
        first, second = (load_file(place / "parts" / name) for place in (folder, other))
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), (name, key)
    assert len(rows(folder)) == 2
    assert [row["metrics"] for row in rows(folder)] == [row["metrics"] for row in rows(other)]
    assert all(len(row["metrics"]) == 12 for row in rows(folder))
    for row in rows(folder):
        assert (folder / row["picture"]).read_bytes() == (other / row["picture"]).read_bytes()


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def child(*arguments) -> multiprocessing.Process:
    return children.start(evaluate, *arguments, folder=arguments[0])


class TestKilled:
    def test_at_random_moments(self, place):
        out, rng, early = place / "killed", random.Random(KILLS), 0
        for _ in range(KILLS):
            before, process, deadline = files(out), child(place, "killed"), time.monotonic() + 60
            wanted = rng.randrange(1, 10)
            while process.is_alive() and len(files(out)) < len(before) + wanted:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.join(rng.uniform(0, 0.05))
            process.kill()
            process.join(60)
            early += process.exitcode == -signal.SIGKILL
            # What was finished stays as it was.
            assert before.items() <= files(out).items()
        before, process = files(out), child(place, "killed")
        process.join(60)
        assert process.exitcode == 0
        assert early > KILLS // 2
        assert before.items() <= files(out).items()
        same(out, place / "straight")

    def test_in_the_middle_of_writing(self, place):
        out = place / "torn"
        for after in (1, 2, 12):
            process = child(place, "torn", "write", after)
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
            assert list(out.glob("parts/*/.*.part"))
        with contextlib.chdir(place):  # to come back after it
            evaluate(place, "torn")
        assert not list(out.glob("parts/*/.*"))
        same(out, place / "straight")

    def test_one_command_at_a_time(self, place, capsys):
        from scoresde_run.machine.files import locked

        with locked(place / "held", "evaluating"):
            process = child(place, "held")
            process.join(60)
        assert process.exitcode == 3


def torchrun(place: Path, out: str, count: int, *more: str) -> subprocess.CompletedProcess:
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *start, "-m", "scoresde_core", *ASKED, "--out", out, *more]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)


class TestProcesses:
    def test_two_are_one(self, place):
        done = torchrun(place, "two", 2)
        assert done.returncode == 0, done.stderr
        same(place / "two", place / "straight")
        for step in (5, 10):
            assert done.stdout.count(f"{name_of(step)}: ") == 1
        assert done.stdout.count("rows: two/results.jsonl") == 1

    def test_a_failure_of_one_is_the_failure_of_all(self, place):
        """A batch of the second process fails: a row says so, the first process does not wait for ever."""
        code = (
            "import os\n"
            "from scoresde_core.evaluator import Evaluator\n\n\n"
            "class Fails(Evaluator):\n"
            "    needs = frozenset()\n\n"
            "    def evaluate(self, evidence):\n"
            "        raise ValueError('rank ' + os.environ['RANK'])\n"
        )
        rows_of(place, "fails", {"fails": "Fails"}, code)
        done = torchrun(place, "failed", 2, "--evaluator", "nll_gap", "fails", "--registry", "fails.yaml")
        assert done.returncode != 0
        assert [row["status"] for row in rows(place / "failed")] == ["failed", "failed"]
        assert {row["reason"] for row in rows(place / "failed")} == {"ValueError: rank 1"}


def test_a_changed_batch_is_not_finished(tmp_path):
    parts = Parts(tmp_path, "loss", {})
    parts.save(0, Part({"loss": torch.ones(4)}, {"seconds": 1.0}))
    assert (parts.has(0), parts.has(1), parts.load(0).record) == (True, False, {"seconds": 1.0})
    (path,) = parts.folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not parts.has(0)
    with pytest.raises(FileError, match=r"digest does not match.*remove it and repeat the command"):
        parts.load(0)
