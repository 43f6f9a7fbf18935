"""Two processes under torchrun make the steps of one; and what only the first of them does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde_core.models import checkpoint
from scoresde_core.registry import load_registry

CHANGES = ["model.network=mlp[width=16]", "model.shape=[1,8,8]", "training.batch_size=12", "training.warmup=4",
           "training.iterations=20", "training.log_every=5", "training.evaluate_every=10", "training.resume_every=10",
           "training.snapshot_every=20", "training.learning_rate=1e-3", "training.loss=dsm[stratified=true]",
           "data.random_flip=true", "sampling.sampler.steps=2", "sampling.n=4", "training.ema=0.9"]  # fmt: skip


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs ``scoresde train`` in N processes on one machine; returns the finished process and its folder."""
    folder = tmp_path_factory.mktemp("distributed")
    np.savez(folder / "tiny.npz", images=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    config = (
        load_registry().create("presets", "mnist_vp").override([f"data.dataset=npz[path={folder}/tiny.npz]", *CHANGES])
    )
    (folder / "it.yaml").write_text(config.to_yaml())

    def run(name: str, count: int, *arguments: str):
        start = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr",
            "127.0.0.1",
            "--nproc-per-node",
            str(count),
        ]
        command = [sys.executable, *(start if count > 1 else []), "-m", "scoresde_core", "train", "it.yaml"]
        command += ["--out", name, "--device", "cpu", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done, folder / name

    return run


@pytest.fixture(scope="module")
def one(train):
    return train("one", 1)[1]


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


def test_two_processes_are_one(train, one):
    done, folder = train("two", 2)
    assert done.returncode == 0, done.stderr
    compare(one, folder)
    assert done.stdout.count("20 steps; the model is in two") == 1
    assert done.stderr.count("step 20 of 20: loss") == 1


def test_parts_and_a_change_of_processes_in_between(train, one):
    done, _ = train("mixed", 2, "training.iterations=10", "training.accumulate=3")
    assert done.returncode == 0, done.stderr
    done, folder = train("mixed", 1, "training.accumulate=3")
    assert done.returncode == 0, done.stderr
    compare_final(one, folder)


def compare_final(one: Path, other: Path) -> None:
    """Weights alone: the other run was evaluated and logged at steps of its own."""
    for mine, theirs in zip(checkpoint.read(one).states(), checkpoint.read(other).states(), strict=True):
        for name, value in mine.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=2e-6)


def test_the_logged_loss_is_that_of_all_processes_after_a_resume_too(train):
    """A state saved between two logs holds the losses of every process, not those of the one that wrote it."""
    changes = ("training.resume_every=7", "training.evaluate_every=null", "training.iterations=10")
    done, folder = train("logged", 2, *changes)
    assert done.returncode == 0, done.stderr
    straight = [row["loss"] for row in rows(folder)]
    shutil.rmtree(folder / "checkpoints/step_000000010")
    shutil.rmtree(folder / "models/step_000000010")
    done, _ = train("logged", 2, *changes)
    assert "step 7 of 10: going on" in done.stderr
    assert [row["loss"] for row in rows(folder)] == straight


def test_an_error_is_said_once(train):
    done, folder = train("wrong", 2, "training.batch_size=7")
    assert done.returncode != 0
    assert done.stderr.count("error: a batch of 7 does not divide into 2 processes x 1 parts") == 1
    assert not (folder / "metrics.jsonl").exists()
