"""The lessons in the plane teach what they say, and their script draws it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from scoresde_run.commands.shell import main

# One scale forgets nothing of such data: that is the lesson, and training says so.
pytestmark = pytest.mark.filterwarnings("ignore:the data's root mean square")
SCRIPT = Path(__file__).parents[2] / "docs" / "pictures" / "lessons_2d.py"


@pytest.fixture(scope="module")
def lesson():
    spec = importlib.util.spec_from_file_location("lesson", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both presets, trained for a fifth of their steps."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one_scale", "many_scales"):
        quick = ["training.iterations=600", "training.ema=0.99", "training.evaluate_every=null"]
        assert main(["train", f"lesson_{name}", *quick, "--out", str(folder / name), "--device", "cpu"]) == 0
    return folder / "one_scale", folder / "many_scales"


def test_one_scale_learns_the_score_where_data_are_and_nowhere_else(lesson, runs):
    learned = lesson.Learned(runs[0])
    here = learned.error(lesson.noisy(learned.target, 0.1, 4000), 0.1)
    there = learned.error(lesson.anywhere(4000), 0.1)
    assert here < 0.2
    assert there > 3 * here


def test_large_scales_are_learned_everywhere(lesson, runs):
    learned = lesson.Learned(runs[1])
    assert learned.error(lesson.anywhere(4000), 3.0) < 0.15


def test_the_level_of_a_scale_is_that_of_the_sde(lesson, runs):
    for run in runs:
        learned = lesson.Learned(run)
        level = learned.level(0.1)
        assert float(learned.model.sde.sigma(torch.tensor(level.t, dtype=torch.float64))) == pytest.approx(
            0.1, rel=1e-4
        )


def test_the_script(lesson, runs, tmp_path, capsys, monkeypatch):
    """Many scales find the weights of the modes to a few percent; one scale does not, even with the exact score."""
    monkeypatch.setattr(sys, "argv", ["lesson.py", *map(str, runs), "--out", str(tmp_path), "--n", "600"])
    lesson.main()
    rows = [line.split("score ")[1].split() for line in capsys.readouterr().out.splitlines() if " score  " in line]
    exact_one, _, exact_many, learned_many = [[float(value) for value in row] for row in rows[-4:]]
    truth = (0.6, 0.3, 0.1)
    assert max(abs(a - b) for a, b in zip(exact_many, truth, strict=False)) < 0.08
    assert max(abs(a - b) for a, b in zip(learned_many, truth, strict=False)) < 0.12
    assert max(abs(a - b) for a, b in zip(exact_one, truth, strict=False)) > 0.15
    with Image.open(tmp_path / "lessons_2d_samples.png") as picture:
        assert picture.width > 600
