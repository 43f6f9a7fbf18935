"""``scoresde new``: for every kind a package that installs, passes its own tests and is what the guide shows."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scoresde_bench.cli import main as bench
from scoresde_core.kinds import KINDS
from scoresde_core.registry import load_registry
from scoresde_plugins.commands.new import rendered
from scoresde_run.commands.shell import main

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"
SINGULARS = ("sde", "predictor", "corrector", "loss", "evaluator", "sampler", "grid", "target", "network", "extractor",
             "dataset", "condition", "guidance", "operator", "dequantizer", "command")  # fmt: skip
load_registry()  # which declares the kinds of plugins
KIND = {kind.singular: name for name, kind in KINDS.items()}
SHORTER = {
    "scoresde-bench": ["--steps", "2", "--samples", "16", "--target", "mixture2d", "--out", "out"],
    "train": ["training.iterations=2"],
    "evaluate": ["--samples", "8", "--sampler", "pc[predictor=ddim,steps=2]"],
    "sample": ["--n", "2", "--steps", "2"],
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of every kind, ``my_<kind>``, and the folder into which the wheels of all are unpacked."""
    folder, site = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("site")
    for singular in SINGULARS:
        assert main(["new", singular, f"my_{singular}", "--folder", str(folder / f"my_{singular}")]) == 0
    copies = tmp_path_factory.mktemp("copies")
    code = (  # what pip does, with one start of Python for all
        "import os, sys, zipfile; from setuptools import build_meta; _, site, *places = sys.argv\n"
        "for place in places:\n"
        "    os.chdir(place)\n"
        "    zipfile.ZipFile(os.path.join(site, build_meta.build_wheel(site))).extractall(site)"
    )
    places = [str(shutil.copytree(place, copies / place.name)) for place in folder.iterdir()]
    done = subprocess.run([sys.executable, "-c", code, str(site), *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, site


@pytest.fixture
def installed(packages, tmp_path, monkeypatch):
    """As if pip had installed the packages, in an empty working folder; returns the folder of their sources."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(packages[1])
    importlib.invalidate_caches()
    return packages[0]


def test_there_is_a_template_of_every_kind_that_is_code(capsys):
    with pytest.raises(SystemExit):
        main(["new", "--help"])
    listed = re.search(r"one of: ([\w,\s]+?)\n\s+NAME", capsys.readouterr().out)[1]
    assert set(re.findall(r"\w+", listed)) == set(SINGULARS)
    assert set(KIND) - set(SINGULARS) == {"executor", "suite", "preset", "checkpoint"}


@pytest.mark.parametrize("singular", SINGULARS)
def test_it_passes_the_check(singular, installed, capsys):
    started = time.perf_counter()
    code = main(["check", "--dist", f"my_{singular}", "--json"])
    found = json.loads(capsys.readouterr().out)["checks"]
    assert (code, {check["plugin"] for check in found}) == (0, {f"my_{singular}"})
    assert {check["state"] for check in found} <= {"passed", "skipped"}
    assert len(found) > 5
    assert time.perf_counter() - started < 10


def test_its_own_tests_pass(packages):
    """All in one process, and of one package also the conformance suite, as its configuration asks."""
    folder, site = packages
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    tests = [str(path) for path in folder.glob("*/tests/*.py")]
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error:scoresde_core:DeprecationWarning",
        "-k",
        "not test_component or my_grid",
    ]
    asked = ["-c", str(folder / "my_grid" / "pyproject.toml"), "--rootdir", str(folder)]
    done = subprocess.run([sys.executable, "-c", code, *options, *asked, *tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= len(SINGULARS) + 10


@pytest.mark.parametrize("singular", [s for s in SINGULARS if s not in ("dequantizer", "extractor")])
def test_the_command_of_its_readme_runs(singular, installed, capsys):
    readme = (installed / f"my_{singular}" / "README.md").read_text()
    program, *words = shlex.split(readme.split("```")[1].splitlines()[3])
    key = program if program == "scoresde-bench" else words[0]
    more = [word for word in SHORTER.get(key, []) if singular != "target" or word not in ("--target", "mixture2d")]
    if singular == "sampler":
        more = more[2:]
    assert (bench if program == "scoresde-bench" else main)([*words, *more]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("singular", SINGULARS)
def test_the_guide_shows_it(singular):
    """One complete example a kind, the very text of the file."""
    made = rendered(KINDS[KIND[singular]], f"my_{singular}")
    name = f"my_{singular}/{KIND[singular]}.py"
    shown = re.search(rf"^`{name}`.*?\n\n```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert shown, f"the guide has no `{name}`"
    assert shown[1] == made[name]
    code = "".join(text for path, text in made.items() if path.endswith(".py"))
    assert max(map(len, code.splitlines())) <= 120
    assert "{{" not in "".join(made.values())


@pytest.fixture
def new(tmp_path, monkeypatch, capsys):
    """Runs ``scoresde new`` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["new", *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_the_same_command_again_changes_nothing(new, tmp_path):
    told = "wrote twice_made: pip install -e twice_made && scoresde check --dist twice_made\n"
    assert new("grid", "twice_made") == (0, told, "")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert new("grid", "twice_made") == (0, "twice_made is the result of this command already\n", "")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_nothing_is_overwritten(new, tmp_path):
    (tmp_path / "mine").mkdir()
    assert new("grid", "mine")[::2] == (3, "error: mine exists: choose another NAME or --folder, or remove it\n")
    assert list((tmp_path / "mine").iterdir()) == []
    assert new("grid", "theirs", "--folder", "out")[0] == 0
    path = tmp_path / "out" / "theirs" / "grids.py"
    path.write_text(path.read_text().replace("power", "exponent"))
    code, _, err = new("grid", "theirs", "--folder", "out")
    assert (code, err.startswith("error: out exists: ")) == (3, True)
    assert "exponent" in path.read_text()
    assert new("grid", "far", "--folder", "no/where")[0] == 3
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sde", "My-Step"), "'My-Step' is not a name: write small letters, digits and _, and no keyword, such as my_"),
        (("sde", "2fast"), "such as my_2fast"),
        (("sde", "lambda"), "such as my_lambda"),
        (("sde", "null"), "such as my_null"),
        (("sde", "schön"), "such as sch_n"),
        (("sde", "../up"), "such as up"),
        (("predictor", "ddim"), "the predictor scoresde:ddim exists: choose another name, such as my_ddim"),
        (("predictor", "ancestral"), "the predictor scoresde:ancestral_sampling exists: choose another name"),
        (("loss", "torch"), "torch is a module already: choose another name, such as my_torch"),
        (("loss", "sys"), "sys is a module already"),
        (("loss", "tests"), "tests is a module already"),
        (("loss", "scoresde"), "the plugin scoresde is installed: choose another name, such as my_scoresde"),
        (("suite", "mine"), "there is no template of suites: take one of sde, predictor,"),
        (("predictr", "mine"), "no kind of component is called 'predictr'. Did you mean 'predictor'"),
    ],
    ids=lambda words: words[1] if isinstance(words, tuple) else None,
)  # fmt: skip
def test_a_name_that_cannot_be_is_one_line(new, words, told, tmp_path):
    code, out, err = new(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert list(tmp_path.iterdir()) == []
