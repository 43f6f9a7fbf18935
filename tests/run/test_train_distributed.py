"""Two processes under torchrun make the same steps as one; only process 0 writes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint

CHANGES = ["model.network=mlp[width=16]", "model.shape=[1,8,8]", "training.batch_size=12", "training.warmup=4",
           "training.iterations=20", "training.log_every=5", "training.evaluate_every=10", "training.resume_every=7",
           "training.snapshot_every=20", "training.learning_rate=1e-3", "training.loss=dsm[stratified=true]",
           "data.random_flip=true", "sampling.sampler.steps=2", "sampling.n=4", "training.ema=0.9"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the data, the configuration and the runs."""
    folder = tmp_path_factory.mktemp("distributed")
    np.savez(folder / "tiny.npz", images=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    config = (
        load_registry().create("presets", "mnist_vp").override([f"data.dataset=npz[path={folder}/tiny.npz]", *CHANGES])
    )
    (folder / "it.yaml").write_text(config.to_yaml())
    return folder


def words(name: str, *changes: str) -> list[str]:
    return ["train", "it.yaml", "--out", name, "--device", "cpu", *changes]


def train_in_two(folder: Path, name: str, *changes: str) -> subprocess.CompletedProcess:
    """``scoresde train`` in two processes on this machine."""
    start = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2", "-m", "scoresde_core"]
    command = [sys.executable, "-m", "torch.distributed.run", *start, *words(name, *changes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def one(folder):
    """The run of one process, which takes each batch in one part."""
    with contextlib.chdir(folder):
        assert main([*words("one"), "--log-level", "error"]) == 0
    return folder / "one"


@pytest.fixture(scope="module")
def two(folder):
    """The finished run of two processes, each of which takes its share in three parts."""
    return train_in_two(folder, "two", "training.accumulate=3")


def until(folder: Path, name: str, step: int) -> Path:
    """A copy of the run ``two`` as it was after ``step``, to be resumed."""
    copy = Path(shutil.copytree(folder / "two", folder / name))
    for path in [*copy.glob("checkpoints/step_*"), *copy.glob("models/step_*")]:
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    return copy


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compare(one: Path, two: Path) -> None:
    """Losses and weights to the rounding of a sum in another order."""
    for first, second in zip(rows(one), rows(two), strict=True):
        first.pop("events_per_second", None)
        second.pop("events_per_second", None)
        assert second == pytest.approx(first, rel=1e-5)
    for mine, theirs in zip(checkpoint.read(one).states(), checkpoint.read(two).states(), strict=True):
        for name, value in mine.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=2e-6)


def test_two_processes_are_one(folder, one, two):
    assert two.returncode == 0, two.stderr
    compare(one, folder / "two")
    assert two.stdout.count("20 steps; the model is in two") == 1
    assert two.stderr.count("step 20 of 20: loss") == 1


def test_one_process_goes_on_where_two_stopped(folder, one, two, monkeypatch):
    monkeypatch.chdir(folder)
    alone = until(folder, "alone", 14)
    assert main([*words("alone", "training.accumulate=3"), "--log-level", "error"]) == 0
    compare(one, alone)


def test_the_logged_loss_is_that_of_all_processes_after_a_resume_too(folder, two):
    """A state saved between two logs holds the losses of every process, not those of the one that wrote it."""
    again = until(folder, "again", 14)
    done = train_in_two(folder, "again", "training.accumulate=3")
    assert "step 14 of 20: resumed" in done.stderr
    losses, straight = ([row["loss"] for row in rows(f) if "loss" in row] for f in (again, folder / "two"))
    assert len(straight) == 4
    assert losses == straight


def test_an_error_is_said_once(folder):
    done = train_in_two(folder, "wrong", "training.batch_size=7")
    assert done.returncode != 0
    assert done.stderr.count("error: a batch of 7 does not divide into 2 processes x 1 parts") == 1
    assert not (folder / "wrong" / "metrics.jsonl").exists()
