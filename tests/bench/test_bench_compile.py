"""The axis ``--compile``: compiling is timed separately, and cells that cannot compile are skipped with the reason."""

import os
import shutil
import time

import pytest
import torch
from runs import DENOISER, rows_in, save_models

ONE = ("--network", "points.yaml", "--steps", "4", "--samples", "37", "--batch-size", "13", "--evaluator", "nll_gap")
DELAY = 0.2


@pytest.fixture
def slow_compiler(monkeypatch):
    """A slow backend that changes nothing, in place of the real one; returns the batch sizes it compiled."""
    asked = []

    def backend(graph, inputs):
        time.sleep(DELAY)
        asked.append({x.shape[0] for x in inputs if x.ndim == 2})
        return graph.forward

    def compile_by_it(module, **options):
        assert options["mode"] == "default"
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend, dynamic=options["dynamic"])

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by_it)
    monkeypatch.setattr("scoresde_bench.run.cell.no_compiler", lambda device: None)
    yield asked
    torch.compiler.reset()


def test_compiling_is_timed_by_itself_for_every_size_of_batch(bench, tmp_path, slow_compiler):
    save_models(tmp_path)
    code, out, err = bench(*ONE, "--predictor", "ddim", "heun", "--compile", "none,default", "--out", "here")
    assert code == 0, err
    rows = rows_in(tmp_path / "here")
    assert [(row["compile"], row["predictor"]) for row in rows] == [
        *((None, "ddim"), (None, "heun"), ("default", "ddim"), ("default", "heun"))
    ]
    # 37 samples in batches of 13; the second predictor finds both sizes compiled.
    assert sorted(max(sizes & {11, 13}) for sizes in slow_compiler) == [11, 13]
    assert [row["compile_seconds"] for row in rows[:2]] == [0, 0]
    for row in rows[2:]:
        assert row["compile_seconds"] > 2 * DELAY
        assert row["seconds"] < DELAY
    assert rows[2]["cell_seconds"] > rows[2]["compile_seconds"]
    assert len({row["cell"] for row in rows}) == 4
    assert {row["predictor"]: row["nfe"] for row in rows} == {"ddim": 4, "heun": 7}
    assert "compile" in out


def test_a_compiled_cell_is_repeated_and_told_apart(bench, tmp_path, slow_compiler):
    import shlex

    from scoresde_bench.report.repeat import command

    save_models(tmp_path)
    bench(*ONE, "--compile", "none", "default", "--out", "here")
    plain, compiled = rows_in(tmp_path / "here")
    code, out, _ = bench(*shlex.split(command(compiled))[1:], "--dry-run")
    assert (code, out.split()[0]) == (0, compiled["cell"])
    assert "--compile" not in command(plain)
    page = bench("report", "here", "--format", "markdown")[1]
    assert "| default |" in page.replace("  ", " ")


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="compiling needs a C++ compiler")
def test_compiled_code_gives_the_same_samples(bench, tmp_path):
    save_models(tmp_path, "one", network=DENOISER)
    judged = ("--checkpoint", "one", "--target", "mixture2d", "--predictor", "ddim", "--steps", "5", "--samples", "64")
    assert bench(*judged, "--compile", "none", "default", "--out", "here")[0] == 0
    plain, compiled = rows_in(tmp_path / "here")
    assert compiled["compile_seconds"] > compiled["seconds"]
    for name, metric in plain["metrics"].items():
        assert compiled["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-4, abs=1e-5)
    torch.compiler.reset()


def test_without_a_compiler_the_cell_is_skipped_with_the_reason(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    save_models(tmp_path)
    code, out, _ = bench(*ONE, "--compile", "none", "default", "--out", "here")
    plain, compiled = rows_in(tmp_path / "here")
    assert (code, plain["status"], compiled["status"]) == (0, "done", "skip")
    assert "no-such-compiler was not found" in compiled["reason"]
    assert "CXX" in out


def test_an_exact_score_has_nothing_to_compile(bench, tmp_path):
    code, out, err = bench("--compile", "default", "--steps", "5", "--target", "mixture2d")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--compile has no effect: exact scores have no network" in err
    (tmp_path / "mixed.yaml").write_text(
        "format: 1\nblocks: [{target: mixture2d, sde: vp, steps: 5, samples: 32, compile: [none, default]}]\n"
    )
    assert bench("--suite", "mixed.yaml", "--out", "here")[0] == 0
    assert [(row["compile"], row["status"]) for row in rows_in(tmp_path / "here")] == [
        *((None, "done"), ("default", "skip"))
    ]


def test_an_unknown_mode_is_one_line(bench):
    code, out, err = bench(*ONE, "--compile", "reduce-overhead")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--compile must be none or default or max-autotune-no-cudagraphs, got 'reduce-overhead'" in err
