"""Files that version 0.1 has written are read by every later one: ``tests/stored/0.1`` has one of every stored format.

They were made by the commands of ``writers.py``, and never change; a new version of a format adds a folder of its own.
Not here: what is read by the process that wrote it alone, as the messages of workers.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import writers
import yaml
from scoresde_bench.run.executors import slurm
from scoresde_core import create
from scoresde_core.registry import load_registry
from scoresde_plugins.evaluate.measure import Parts
from scoresde_plugins.evaluators import statistics_file
from scoresde_plugins.targets import mfa
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint
from scoresde_run.results.results import Results
from scoresde_run.training import state

FEATURES = 0.302
"""The mean of the features of ``tiny.npz``."""
STORED = Path(__file__).parents[1] / "stored" / "0.1"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A copy of the files, as the working folder."""
    shutil.copytree(STORED, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_everything_is_as_it_was_written(here, capsys):
    assert main(["verify", "run", "sweep", "evaluation"]) == 0
    assert capsys.readouterr().out.endswith("4 sound, 2 not checked, 0 damaged\n")


def test_a_checkpoint_gives_its_samples(here):
    """Of a run's averaged weights, which are equal to the pixel."""
    found = checkpoint.read("run")
    assert (found.step, found.uses_ema()) == (4, True)
    assert found.load(load_registry()).network is not None
    assert main(["sample", "--checkpoint", "run", "--n", "2", "--steps", "1", "--device", "cpu", "--out", "again"]) == 0
    assert np.abs(samples("again") - samples("samples")).max() <= 1  # another machine may round a value differently


def samples(folder):
    with np.load(Path(folder) / "samples.npz") as file:
        return file["samples"].astype(int)


def test_a_run_is_resumed(here):
    saved, tensors = state.newest(here / "run" / "checkpoints")
    assert (saved.step, saved.folder.name) == (4, "step_000000004")
    assert tensors["losses"].dtype == torch.float64
    words = writers.COMMANDS["train"][1:-1]
    assert main([*words, "run", "training.iterations=5"]) == 0
    lines = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 5]
    assert checkpoint.read("run").step == 5


def test_rows(here):
    sweep, evaluation = Results.peek(here / "sweep"), Results.peek(here / "evaluation")
    assert [row["sde"] for row in sweep.values()] == ["vp", "ve"]
    assert [round(row["metrics"]["nll_gap"]["value"], 4) for row in sweep.values()] == [46.2971, 45.0172]
    (row,) = evaluation.values()
    assert (row["training_step"], round(row["metrics"]["sliced_wasserstein"]["value"], 6)) == (4, 0.909539)


def test_a_batch_of_an_evaluation(here):
    (folder,) = (here / "evaluation" / "parts").iterdir()
    parts = Parts(folder.parent, "loss", {})
    parts.folder = folder
    assert parts.has(0)
    assert len(parts.load(0).tensors["loss"]) == 4


def test_statistics_and_a_target(here):
    statistics = statistics_file.read("statistics.safetensors")
    assert (statistics.moments.count, len(statistics.moments.mean), len(statistics.features)) == (11, 64, 11)
    target, report = mfa.load("target.safetensors")
    assert (tuple(target.shape), report["components"]) == ((1, 8, 8), 2)


def test_a_classifier_gives_its_features(here):
    extractor = create("extractors", "classifier[file=classifier.safetensors]")
    assert (extractor.shape, extractor.report["dataset"]) == ((1, 8, 8), "npz[path=tiny.npz]")
    with np.load("tiny.npz") as file:
        found = extractor.load(torch.device("cpu"))(torch.from_numpy(file["images"]).permute(0, 3, 1, 2))
    assert (tuple(found.pooled.shape), tuple(found.logits.shape)) == ((12, 96), (12, 3))
    assert round(float(found.pooled.mean()), 3) == FEATURES


def test_a_row_that_arrived_from_a_cluster_and_the_jobs_that_were_submitted(here):
    results = Results(here / "cluster")
    with results.claim():
        assert [row["sde"] for row in results.rows.values()] == ["vp", "ve"]
    assert not list((here / "cluster" / "arrived").iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm._Queue, "_ask", lambda self: {"scoresde-bench-0a1b2c3d_1"})
        queue = slurm._Queue(here / "cluster" / "slurm", "slurm")
    assert [queue.running(key) for key in results.rows] == [False, True]


def test_records_and_latents(here):
    for name in ("likelihood/likelihood.yaml", "encoding/encoding.yaml", "samples/sampling.yaml"):
        record = yaml.safe_load(Path(name).read_text())
        assert len(record["asked"]) == 16
    model = ["encode", "--target", "gaussian[shape=[1,8,8]]", "--decode", "encoding/latents.npz", "--device", "cpu"]
    assert main([*model, "--out", "decoded"]) == 0
    with np.load("likelihood/likelihood.npz") as file:
        assert set(file.files) == {"index", "bits_per_dim", "nfe", "exact", "latents"}
