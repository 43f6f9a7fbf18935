"""benchmarks/studies/speed/predictor_speed.py runs for every predictor and counts evaluations correctly."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from runs import save_models
from scoresde_bench.run.costs import _trial
from scoresde_core import create, default_registry

SCRIPT = Path(__file__).parents[2] / "benchmarks/studies/speed/predictor_speed.py"


@pytest.fixture
def lines(tmp_path, monkeypatch, capsys):
    """Runs the script with given options on a small network; returns its lines of JSON."""
    save_models(tmp_path)
    monkeypatch.syspath_prepend(SCRIPT.parent)

    def run(*options):
        preset = ("--network", str(tmp_path / "points.yaml"), "--device", "cpu")
        monkeypatch.setattr(sys, "argv", ["predictor_speed.py", *preset, *options])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_every_predictor_at_every_size(lines):
    found = lines("--batch-size", "3", "5", "--steps", "4")
    names = {entry.row.name for entry in default_registry().entries("predictors")} - {"none"}
    assert {(line["predictor"], line["batch_size"]) for line in found} == {(n, size) for n in names for size in (3, 5)}
    for line in found:
        sampler = create("samplers", f"pc[predictor={line['predictor']},steps=4]")
        assert line["nfe"] == _trial(sampler, create("sdes", "vp"), (2,))
        assert line["samples_per_second"] > 0
        assert 0 < line["share_outside_network"] < 1  # a loop beside a network of a few hundred weights


def test_compilation_is_for_every_size_and_before_the_clock(lines, monkeypatch):
    seen = []

    def compile_by_nothing(module, **options):
        seen.append(options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by_nothing)
    monkeypatch.setattr("scoresde_bench.run.cell.no_compiler", lambda device: None)
    found = lines("--batch-size", "3", "--steps", "2", "--predictor", "ddim", "--compile")
    assert seen == [{"dynamic": False}]
    assert found[0]["compile"] is True


def test_without_a_compiler_it_says_so(lines, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit):
        lines("--compile")
    assert "no-such-compiler was not found" in capsys.readouterr().err
