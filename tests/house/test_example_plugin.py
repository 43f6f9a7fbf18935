"""The third-party example: small enough, installed into an empty folder, found, checked, used, and gone again."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "cosine_vp"
DIST = "scoresde-cosine-vp"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The example, installed by pip into a folder of its own from a copy of its sources."""
    source, target = tmp_path_factory.mktemp("source") / "cosine_vp", tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, source)
    options = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def scoresde(folder, tmp_path):
    """Runs a module with or without the folder on the path, from an empty directory."""

    def run(*words, installed=True, module="scoresde_core"):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SCORESDE_")}
        paths = [str(folder)] if installed else []
        environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    return run


def lines_of(path, name):
    """The lines of a class, from its decorator to its end, that are not blank."""
    text = path.read_text()
    (node,) = [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return [line for line in text.splitlines()[first - 1 : node.end_lineno] if line.strip()]


@pytest.mark.parametrize(
    ("file", "name", "most"),
    [("sdes.py", "CosineVPSDE", 12), ("sdes.py", "SpeechSDE", 15), ("predictors.py", "TrapezoidPredictor", 8)],
    ids=["sde", "process", "predictor"],
)
def test_small_enough(file, name, most):
    lines = lines_of(EXAMPLE / "scoresde_cosine" / file, name)
    assert len(lines) <= most, "\n".join(lines)
    statements = [node.lineno for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.stmt)]
    assert len(set(statements)) == len(statements), "two statements share a line"


def test_its_own_package_is_all_that_is_installed(folder):
    assert {path.name for path in folder.iterdir()} == {"scoresde_cosine", "scoresde_cosine_vp-0.1.0.dist-info"}


def test_listed(scoresde):
    done = scoresde("list", "--json")
    assert done.returncode == 0, done.stderr
    mine = {(row["kind"], row["name"]) for row in json.loads(done.stdout) if row["plugin"] == DIST}
    assert mine == {("sdes", "cosine_vp"), ("sdes", "speech"), ("predictors", "trapezoid")}


def test_shown(scoresde):
    done = scoresde("show", "sdes", "cosine_vp")
    assert done.returncode == 0, done.stderr
    assert "alpha = cos(u) / cos(u_0)" in done.stdout
    assert "arXiv:2102.09672" in done.stdout


def test_conforms(scoresde):
    done = scoresde("check", "--dist", DIST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    # The README shows how it ends.
    total = done.stdout.splitlines()[-1].rpartition(" in ")[0]
    assert total.endswith("61 passed, 6 skipped")
    assert total in (EXAMPLE / "README.md").read_text()


def test_benchmarked(scoresde, tmp_path):
    words = ("--sde", "cosine_vp", "--predictor", "reverse_diffusion", "--corrector", "langevin", "--steps", "10")
    done = scoresde(*words, "--samples", "64", "--out", str(tmp_path / "out"), module="scoresde_bench")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert (row["status"], row["sde"], row["nfe"]) == ("done", "cosine_vp", 20)
    assert row["plugins"][DIST] == "0.1.0"


def test_a_checkpoint_says_which_plugin_it_needs(scoresde, tmp_path):
    words = ("moons_vp", "model.sde=cosine_vp", "training.iterations=1", "--device", "cpu")
    done = scoresde("train", *words, "--out", "run")
    assert done.returncode == 0, done.stderr
    (index,) = (tmp_path / "run" / "models").glob("*/model.yaml")
    assert yaml.safe_load(index.read_text())["plugins"] == {"sde": f"{DIST} 0.1.0"}
    again = ("sample", "--checkpoint", "run", "--n", "2", "--steps", "2", "--device", "cpu", "--out")
    assert scoresde(*again, "one").returncode == 0
    gone = scoresde(*again, "two", installed=False)
    assert gone.returncode == 1
    words = f"has the sde 'cosine_vp' of the plugin {DIST} 0.1.0, which is not loaded: pip install {DIST}, or see"
    assert words in gone.stderr
    assert gone.stderr.count("\n") == 1
    assert not (tmp_path / "two").exists()


def test_without_it_everything_goes_on(scoresde):
    done = scoresde("list", "sdes", installed=False)
    assert done.returncode == 0
    assert "cosine_vp" not in done.stdout
    for words in (("show", "sdes", "cosine_vp"), ("check", "sdes", "cosine_vp"), ("check", "--dist", DIST)):
        gone = scoresde(*words, installed=False)
        assert gone.returncode == 2, gone.stdout + gone.stderr
        assert gone.stderr.startswith("error: no ")
        assert gone.stderr.count("\n") == 1


def test_bench_without_it(scoresde, tmp_path):
    words = ("--sde", "cosine_vp", "--predictor", "reverse_diffusion", "--out", str(tmp_path / "out"))
    done = scoresde(*words, installed=False, module="scoresde_bench")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no sde is called 'cosine_vp'" in done.stderr
    assert not (tmp_path / "out").exists()
