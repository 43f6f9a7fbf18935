"""``--precision``: used by the network, recorded in rows, with a warning on slow CPUs; refused if it has no effect."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import DENOISER, rows_in, save_models
from scoresde import Level, NetworkScore, create
from scoresde_run.commands.shell import main
from scoresde_run.machine import device
from scoresde_run.machine.device import PRECISIONS

ONE = ("--network", "points.yaml", "--predictor", "ddim", "--steps", "4", "--samples", "16", "--evaluator", "nll_gap")
JUDGED = ("--checkpoint", "one", "--target", "mixture2d", "--predictor", "ddim", "--steps", "5", "--samples", "64")


@pytest.fixture
def slow(monkeypatch):
    """A CPU on which products in half precision take 140 times as long."""
    monkeypatch.setattr(device, "_seconds", lambda dtype: 1e-3 if dtype == torch.float32 else 0.14)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(device, "_seconds", lambda dtype: 1e-3)


def run(*arguments):
    return main(list(map(str, arguments)))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_network_computes_in_it_and_the_state_does_not(precision):
    seen = []

    class Network(torch.nn.Linear):
        def forward(self, x, label):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    model = NetworkScore(
        Network(2, 2), create("sdes", "vp"), parameterisation="score", label="t", autocast=PRECISIONS[precision]
    )
    score = model.score(torch.ones(3, 2), Level(0.5, 0.6, 0.8))
    assert (seen, score.dtype) == ([getattr(torch, precision)], torch.float32)


class TestTheBench:
    def test_sweeps_it(self, bench, tmp_path, fast):
        save_models(tmp_path, "one", network=DENOISER)
        code, out, err = bench(*JUDGED, "--precision", "float32,bfloat16", "--out", "here")
        assert (code, "warning" in err) == (0, False), err
        plain, low = rows_in(tmp_path / "here")
        assert (plain["precision"], low["precision"], low["dtype"]) == (None, "bfloat16", "float32")
        gaps = [abs(low["metrics"][k]["value"] - v["value"]) for k, v in plain["metrics"].items()]
        assert max(gaps) > 1e-6
        assert all(gap < 0.1 * abs(v["value"]) + 0.1 for gap, v in zip(gaps, plain["metrics"].values(), strict=True))
        assert "bfloat16" in out

    def test_repeats_it_and_leaves_the_keys_of_float32(self, bench, tmp_path, fast):
        from scoresde_bench.report.repeat import command

        save_models(tmp_path)
        bench(*ONE, "--out", "before")
        bench(*ONE, "--precision", "float32", "bfloat16", "--out", "here")
        (before,), (plain, low) = rows_in(tmp_path / "before"), rows_in(tmp_path / "here")
        assert before["cell"] == plain["cell"] != low["cell"]
        assert "--precision" not in command(plain)
        code, out, _ = bench(*shlex.split(command(low))[1:], "--dry-run")
        assert (code, out.split()[0]) == (0, low["cell"])
        assert "| bfloat16 |" in bench("report", "here", "--format", "markdown")[1].replace("  ", " ")

    def test_tells_it_from_rows_of_before_there_was_an_axis(self):
        from scoresde_bench.report.labels import labels, varying

        old, new = {"sde": "vp", "steps": 5}, {"sde": "vp", "steps": 5, "precision": "bfloat16"}
        assert varying([old, new]) == ["precision"]
        assert labels([old, new]) == ["vp 5 steps", "vp network in bfloat16 5 steps"]
        assert varying([old, {**old, "precision": None}]) == []

    def test_skips_what_has_no_effect_with_the_reason(self, bench, tmp_path):
        code, _, err = bench("--precision", "bfloat16", "--steps", "5", "--target", "mixture2d")
        assert (code, err.count("\n")) == (2, 1)
        assert "--precision has no effect: exact scores have no network" in err
        block = "{target: mixture2d, sde: vp, steps: 5, samples: 32, precision: [float32, bfloat16]}"
        (tmp_path / "mixed.yaml").write_text(f"format: 1\nblocks: [{block}]\n")
        assert bench("--suite", "mixed.yaml", "--out", "here")[0] == 0
        plain, low = rows_in(tmp_path / "here")
        assert (plain["status"], low["status"]) == ("done", "skip")
        assert low["reason"] == "no network to run in bfloat16: this is an exact score"
        save_models(tmp_path)
        bench(*ONE, "--precision", "float16", "--dtype", "float64", "--out", "wide")
        assert "a network in float64 cannot run in float16" in rows_in(tmp_path / "wide")[0]["reason"]

    def test_tells_of_a_slow_cpu_before_it_runs(self, bench, tmp_path, slow):
        save_models(tmp_path)
        _, _, err = bench(*ONE, "--precision", "float32", "bfloat16", "--out", "here")
        assert err.count("warning: this CPU has no fast instructions for bfloat16: its products take 140 times") == 1
        _, _, err = bench(*ONE, "--precision", "float32", "bfloat16", "--out", "here")
        assert "warning" not in err  # all is done


class TestSample:
    def test_records_it(self, tmp_path, monkeypatch, capsys, slow):
        save_models(tmp_path, "one")
        monkeypatch.chdir(tmp_path)
        for precision in ("float32", "bfloat16"):
            more = ["--n", 8, "--steps", 4, "--precision", precision, "--out", precision]
            assert run("sample", "--checkpoint", "one", *more) == 0
            assert ("warning: this CPU" in capsys.readouterr().err) == (precision != "float32")
        records = [yaml.safe_load(Path(f"{p}/sampling.yaml").read_text()) for p in ("float32", "bfloat16")]
        assert [record.get("precision") for record in records] == [None, "bfloat16"]
        plain, low = (np.load(f"{p}/samples.npz")["floats"] for p in ("float32", "bfloat16"))
        assert low.dtype == np.float32
        assert 0 < np.abs(plain - low).max() < 0.1 * np.abs(plain).max()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--target", "mixture2d"], "--precision bfloat16 has no effect: an exact score has no network"),
            (["--checkpoint", "mnist_vp", "--dtype", "float64"], "the network computes in float64"),
        ],
    )
    def test_refuses_it_where_it_has_no_effect(self, options, words, tmp_path, capsys):
        assert run("sample", *options, "--precision", "bfloat16", "--out", tmp_path / "out") == 2
        assert words in capsys.readouterr().err


def test_evaluate_keeps_what_it_measured_apart(tmp_path, monkeypatch, capsys, slow):
    """Rows and batches of one precision are not reused for another; those of float32 are as in earlier versions."""
    save_models(tmp_path, "one", network=DENOISER)
    monkeypatch.chdir(tmp_path)
    common = ["evaluate", "one", "--evaluator", "moments", "--target", "mixture2d", "--samples", 16, "--device", "cpu"]
    common += ["--sampler", "pc[predictor=ddim,steps=4]", "--out", "it"]
    assert run(*common) == 0
    assert "this CPU" not in capsys.readouterr().err
    assert run(*common, "--precision", "bfloat16") == 0
    assert "warning: this CPU has no fast instructions for bfloat16" in capsys.readouterr().err
    plain, low = [json.loads(line) for line in Path("it/results.jsonl").read_text().splitlines()]
    assert (plain["precision"], low["precision"]) == (None, "bfloat16")
    assert "precision" not in plain["parameters"]
    assert low["parameters"]["precision"] == "bfloat16"
    assert plain["cell"] != low["cell"]
    assert plain["metrics"] != low["metrics"]
    assert run(*common, "--precision", "float16", "--dtype", "float64") == 2
    assert "--precision has no effect on a network in float64" in capsys.readouterr().err


def test_training_tells_of_a_slow_cpu_before_it_begins(tmp_path, capsys, slow):
    quick = ["model.network=mlp[width=8,depth=1]", "model.shape=[2]", "training.batch_size=4", "training.iterations=2",
             "data.dataset=exact[target=mixture2d,count=16,test_count=4]", "training.evaluate_batches=1",
             "data.random_flip=false", "sampling.n=1", "sampling.sampler.steps=1"]  # fmt: skip
    quick += ["training.warmup=0", "training.resume_every=2", "training.snapshot_every=2", "training.log_every=1"]
    common = [*quick, "--device", "cpu", "--log-level", "error"]
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        code = run("train", "mnist_vp", f"training.precision={precision}", *common, "--out", out)
        assert code == 0
        assert ("warning: this CPU has no fast" in capsys.readouterr().err) == (precision == "bfloat16")


class TestSlow:
    def test_names_the_factor_that_it_measured(self, slow):
        said = device.slow_precision(torch.device("cpu"), "bfloat16")
        assert said == (
            "this CPU has no fast instructions for bfloat16: its products take 140 times as long as in float32 "
            "(measured); use float32, or a GPU"
        )

    def test_is_silent_elsewhere(self, slow):
        assert device.slow_precision(torch.device("cpu"), "float32") is None
        assert device.slow_precision(torch.device("cuda"), "bfloat16") is None

    def test_is_silent_where_it_is_fast(self, fast):
        assert device.slow_precision(torch.device("cpu"), "bfloat16") is None

    def test_measures_products(self):
        assert 0 < device._seconds(torch.float32) < 1
