"""Every fenced block of every page is run, here or by the test that HELD names, or says why it is not.

Here commands are read, not run: their options by their own parser, their components by the registry, their scripts by
what they accept. Blocks of data are read, and lines of code that look like commands must be in a block. Python blocks
run in ``tests/house/test_docs.py``, and the pages of the three doors as a whole in ``test_doors.py``.
"""

import itertools
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from scoresde_bench.cli import main as bench
from scoresde_bench.plan.axes import DEFAULTS
from scoresde_bench.plan.sweep import Sweep, sweep
from scoresde_core import ScoreSDEError, default_registry
from scoresde_run.commands.shell import main as scoresde

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/results/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for top in ("docs", "examples") for path in (ROOT / top).rglob("*.md"))
DOORS = [f"docs/{page}.md" for page in ("start", "your_sde", "your_model", "your_data")]
HELD = {
    "README.md": "tests/house/test_readme.py",
    "docs/bench.md": "tests/bench/test_bench_sweeps.py",
    "docs/plugins.md": "tests/core/test_plugins.py",
    "examples/cosine_vp/README.md": "tests/house/test_example_plugin.py",
    "docs/conformance.md": "tests/conformance/test_conformance.py",
    **dict.fromkeys(DOORS, "tests/docs/test_doors.py"),
}
"""Pages whose commands another test runs."""
BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^ *```(?P<kind>[^\n]*)\n(?P<text>.*?)^ *```", re.M | re.S)
COMPONENTS = {
    "--sampler": "samplers", "--condition": "conditions", "--dataset": "datasets", "--target": "targets",
    "--sde": "sdes",
    "--evaluator": "evaluators", "--dequantizer": "dequantizers", "--features": "extractors", "--grid": "grids",
    "--predictor": "predictors", "--corrector": "correctors", "--executor": "executors", "--preset": "presets",
    "--suite": "suites",
}  # fmt: skip
READERS = {"yaml": yaml.safe_load, "toml": tomllib.loads}
PROGRAMS = ("scoresde", "scoresde-bench", "python", "torchrun", "pip", "pytest", "ruff", "mypy", "bash", "docker")


def blocks(page):
    """The (language, text, reason why it is not run) of a page's blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(found["kind"], found["text"], found["why"]) for found in BLOCK.finditer(text)]


def commands(text):
    """The commands of a block, as words; of a console, only what is typed."""
    lines = text.replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")] or lines
    for line in typed:
        if "<TAB>" in line:  # not finished: what is completed is tested with the completion
            continue
        words = shlex.split(re.sub(r"^source <\((.*?)\)", r"\1", line), comments=True)
        words = words[: words.index("|")] if "|" in words else words
        while words:
            cut = words.index("&&") if "&&" in words else len(words)
            yield words[:cut]
            words = words[cut + 1 :]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    for language, text, why in blocks(page):
        assert language in ("bash", "console", "python", "text", *READERS), f"{page}: {language!r}: {text}"
        assert why is None or len(why) > 10
    rest = BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    assert not re.search(rf"^ {{4,}}({'|'.join(PROGRAMS)}) -?\w", rest, re.M), f"{page}: a command outside of a block"


def test_a_page_that_is_held_elsewhere_is_read_there():
    for page, test in HELD.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_data_are_read(page):
    for language, text, _ in blocks(page):
        if language in READERS:
            assert READERS[language](text)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HELD])
def test_commands_are_accepted(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = set()  # what `scoresde new KIND NAME` would make: its own tests use it
    for language, text, why in blocks(page):
        for words in commands(text) if language in ("bash", "console") and why is None else ():
            if not made & set(words):
                CHECKS[words[0]](words, monkeypatch)
                capsys.readouterr()
            made |= {words[3]} if words[:2] == ["scoresde", "new"] else set()


class Reached(Exception):
    """A command would begin its work now."""


def check_scoresde(words, monkeypatch):
    """Parsed by the command's own parser; it is stopped where it would run."""
    registry, name = default_registry(), words[1].replace("-", "_")
    if name not in ("list", "show", "plugins", "presets"):
        monkeypatch.setattr(registry.load("commands", name), "run", lambda self, arguments, registry: 0)
    if "--registry" not in words:
        assert scoresde(words[1:]) == 0, words
    if name == "train":
        changes = [word for word in words if re.match(r"[a-z_.]+=", word)]
        registry.create("presets", words[2]).override(changes)
    if name == "stats" and not words[2].startswith("-"):
        check_components("datasets", [words[2]])
    check_options(words)


def check_bench(words, monkeypatch):
    """Read up to the first cell, or to the first row of stored results."""
    got = []

    def reached(*given, **named):
        got.append(given)
        raise Reached

    monkeypatch.setattr(Sweep, "cells", reached)
    monkeypatch.setattr("scoresde_bench.commands.read_result_sets", reached)
    bench(words[1:])
    assert got, words
    check_options(words)


def check_options(words):
    """Every component that an option names is in the registry, with parameters that it has."""
    option, sweeps = None, words[0] == "scoresde-bench"
    for before, word in itertools.pairwise(words):
        if before == "--network":
            check_components("networks" if "[" in word else "presets", [word])
    for word in words[1:]:
        option = word if word.startswith("--") else option
        if option == word or option not in COMPONENTS or "--registry" in words:
            continue
        values = [word] if "[" in word or not sweeps else word.split(",")
        check_components(COMPONENTS[option], [value for value in values if not value.endswith(".yaml")])
        option = option if sweeps else None


def check_components(kind, texts):
    registry = default_registry()
    for text in texts:
        for spec in sweep(registry, kind, [text]) if kind not in ("presets", "suites") else [text]:
            try:
                registry.create(kind, spec)
            except ScoreSDEError as error:  # a file of the reader's: its name and parameter were read before
                if "there is no file" not in str(error) and "there is no such folder" not in str(error):
                    raise


def check_python(words, monkeypatch):
    """A script that is there, and has the options, or a module beside it that it imports."""
    if words[1] == "-m":
        assert words[2] in ("venv", "build"), words
        return
    script = (ROOT / words[1]).read_text(encoding="utf-8")
    for module in re.findall(r"^from (\w+) import", script, re.M):
        beside = (ROOT / words[1]).with_name(f"{module}.py")
        script += beside.read_text(encoding="utf-8") if beside.is_file() else ""
    for option in (word for word in words if word.startswith("--")):
        assert option in script or f'"{option.lstrip("-")}"' in script, words


def check_torchrun(words, monkeypatch):
    at = words.index("-m")
    assert words[at + 1] == "scoresde_core", words
    check_scoresde(["scoresde", *words[at + 2 :]], monkeypatch)


def check_pip(words, monkeypatch):
    """What is installed is here, with extras that it has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words[2:]:
        place, _, extra = word.removesuffix("]").partition("[")
        if not word.startswith("-"):
            assert place == "scoresde" or (ROOT / place / "pyproject.toml").is_file(), words
            assert all(name in extras for name in extra.split(",") if extra), words


def check_file(words, monkeypatch):
    """The script, or the file that ``-f`` names, is there."""
    named = [word for word in words[1:] if "/" in word or word.endswith((".sh", "Dockerfile"))]
    assert all((ROOT / word).exists() for word in named), words


CHECKS = {
    "scoresde": check_scoresde,
    "scoresde-bench": check_bench,
    "python": check_python,
    "torchrun": check_torchrun,
    "pip": check_pip,
    "bash": check_file,
    "docker": lambda words, monkeypatch: None,
    "mkdocs": lambda words, monkeypatch: None,
    **dict.fromkeys(("pytest", "ruff", "mypy", ".", "git", "pre-commit", "twine"), lambda words, monkeypatch: None),
}
"""How the commands of a program are checked."""


def test_wrong_commands_are_found(tmp_path, monkeypatch):
    """The checks see a wrong option, component, parameter, key, script and extra."""
    monkeypatch.chdir(tmp_path)
    for text in (
        "scoresde sample --checkpoint mnist_vp --outt x",
        "scoresde sample --checkpoint mnist_vp --sampler 'pc[predictor=ddimm]' --out x",
        "scoresde sample --checkpoint mnist_vp --condition 'inpaint[msk=left]' --out x",
        "scoresde train mnist_vp trainin.iterations=3 --out x",
        "scoresde-bench --predictor ddimm",
        "scoresde-bench --predictor 'ddim[etta=1]'",
        "scoresde-bench --stepss 3",
        "python benchmarks/studies/speed/no_such.py",
        "python benchmarks/studies/speed/training_step.py --no-such",
        "torchrun -m scoresde_core train mnist_vpp --out x",
        "pip install '.[nothing]'",
        "bash benchmarks/no_such.sh",
    ):
        (words,) = commands(text)
        with pytest.raises((AssertionError, ScoreSDEError, LookupError, OSError, ValueError)):
            CHECKS[words[0]](words, monkeypatch)
    assert set(DEFAULTS) >= {"predictor", "corrector"}
    assert sys.modules["scoresde_bench"]
