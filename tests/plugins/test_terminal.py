"""The terminal: completion, help, tables of 80 columns, ``doctor``, and the page of what is installed."""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from scoresde_bench.cli import main as bench
from scoresde_core.components import parameters
from scoresde_core.kinds import KINDS
from scoresde_core.registry import load_registry
from scoresde_plugins.commands.completion import SHELLS, fields
from scoresde_run.commands.listing import reflowed
from scoresde_run.commands.shell import main

ROOT = Path(__file__).parents[2]
REGISTRY = load_registry()
CODE = [entry for entry in REGISTRY.entries() if not KINDS[entry.row.kind].data and entry.owner == "scoresde"]
COMMANDS = ["list", "show", "plugins", *(e.row.name.replace("_", "-") for e in REGISTRY.entries("commands"))]
LINES = {
    "scoresde sam": ["sample"],
    "scoresde --debug show predictor he": ["heun"],
    "scoresde list predi": ["predictor", "predictors"],
    "scoresde sample --chec": ["--checkpoint"],
    "scoresde sample --checkpoint ": ["mnist_class_vp", "mnist_classifier", "mnist_vp"],
    "scoresde sample --n 4 --checkpoint mnist_vp --sampler pc[pre": ["pc[predictor="],
    "scoresde sample --sampler 'pc[predictor=dd": ["pc[predictor=ddim"],
    "scoresde sample --sampler 'pc[steps=5,predictor=ddim[et": ["pc[steps=5,predictor=ddim[eta="],
    "scoresde sample --sampler 'pc[predictor=euler_maruyama[probability_flow=true,d": [
        "pc[predictor=euler_maruyama[probability_flow=true,dt="
    ],
    "scoresde sample --sampler pc[steps=5,predictor=dd": ["ddim"],  # bash replaces what is behind the last =
    "scoresde train mnist_v": ["mnist_ve", "mnist_vp"],
    "scoresde train mnist_vp training.loss=ds": ["dsm"],
    "scoresde check corrector lang": ["langevin"],
    "scoresde export --dtype f": ["float16", "float32"],
    "scoresde completion ": ["bash", "fish", "zsh"],
    "scoresde evaluate mnist_vp --evaluator mmd fre": ["frechet"],
    "scoresde-bench --pred": ["--predictor"],
    "scoresde-bench --predictor heun --corrector langevin[snr=0.1,n_": ["0.1,n_steps="],
    "scoresde-bench --predictor heun dd": ["ddim"],
    "scoresde-bench --corrector langevin[norm=": ["batch", "level"],
    "scoresde-bench rep": ["report"],
    "scoresde-bench report --form": ["--format"],
    "scoresde nonsense ": [],
    "scoresde export --out ": [],
}
"""What stands in a line, and what bash is told."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """An environment with the two programs, as they are installed."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("scoresde", "scoresde-bench"):
        module = name.replace("-", "_") if "bench" in name else "scoresde_core"
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        (folder / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SCORESDE_", "COLUMNS"))}
    return {**kept, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def shell(name, script, environment, folder):
    done = subprocess.run([name, *(["-f"] if name == "zsh" else []), "-c", script], capture_output=True, text=True,
                          env=environment, cwd=folder, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_bash_completes(programs, tmp_path):
    script = "source <(scoresde completion bash)\n" + "".join(
        f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}; COMPREPLY=(); _scoresde\n"
        f"echo {shlex.quote(line)} :: ${{COMPREPLY[*]}}\n"
        for line in LINES
    )
    told = [line.split(" :: ") for line in shell("bash", script, programs, tmp_path)]
    told = {line: words.split() for line, words in (pair if len(pair) == 2 else (pair[0][:-3], "") for pair in told)}
    assert {line.strip(): words for line, words in told.items()} == {k.strip(): v for k, v in LINES.items()}


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(programs, tmp_path):
    lines = ("scoresde sam", "scoresde show predictor he", "scoresde sample --sampler pc[pred", "scoresde-bench rep")
    script = "source (scoresde completion fish | psub)\n" + "\n".join(f"complete -C {shlex.quote(x)}" for x in lines)
    assert shell("fish", script, programs, tmp_path) == ["sample", "heun", "pc[predictor=", "report"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes(programs, tmp_path):
    script = """source <(scoresde completion zsh)
    compadd() { while [[ $1 != -- ]]; do shift; done; shift; (( $# )) && print -r -- "$@"; true }
    _files() { print files }
    words=(scoresde sam); CURRENT=2; _scoresde
    words=(scoresde-bench --corrector "'langevin[n"); CURRENT=3; _scoresde
    words=(scoresde export --out x); CURRENT=4; _scoresde"""
    assert shell("zsh", script, programs, tmp_path) == ["sample", "langevin[n_steps= langevin[norm=", "files"]


@pytest.mark.parametrize("name", SHELLS)
def test_a_script_is_one_of_its_shell(name, capsys, tmp_path):
    assert main(["completion", name]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    if shutil.which(name):
        subprocess.run([name, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize("entry", CODE, ids=lambda entry: f"{entry.row.kind}-{entry.row.name}")
def test_parameters_are_read_from_the_source(entry):
    cls = REGISTRY.load(entry.row.kind, entry.qualified)
    assert set(fields(*entry.row.target.split(":"))) == {parameter.name for parameter in parameters(cls)}


@pytest.mark.parametrize(
    ("module", "given", "word"),
    [
        ("scoresde_run.commands.shell", [], "sam"),
        ("scoresde_run.commands.shell", ["sample", "--sampler"], "pc[predictor=ddim["),
        ("scoresde_bench.cli", ["--corrector"], "langevin["),
    ],
)
def test_completing_is_quick_and_imports_no_torch(module, given, word, tmp_path):
    """Under 0.3 s where importing the libraries that it needs takes 0.11 s of CPU time; medians of 5."""
    code = f"""import sys
from {module} import main
try:
    main({given!r})
finally:
    print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"""

    def cost(code):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                              env={**os.environ, "SCORESDE_COMPLETE": word}, check=True)  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done

    runs = [cost(code) for _ in range(5)]
    assert {done.stderr for _, done in runs} == {"False False\n"}
    assert runs[0][1].stdout.startswith(word)
    needed = statistics.median(cost("import attrs, pluggy, rich.table, yaml")[0] for _ in range(5))
    assert statistics.median(seconds for seconds, _ in runs) < 0.3 / 0.11 * needed


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command(command, capsys, monkeypatch):
    """A sentence, an example of it, and a page that exists and speaks of it; in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    sentence = told.split("\n\n")[1]
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert len(sentence.split()) > 3
    example = re.search(rf"^example: (?:source <\()?scoresde {command}\b.*$", told, re.M)
    page = re.search(r"^more: (docs/\w+\.md)$", told, re.M)[1]
    assert example
    assert re.search(rf"scoresde[ -]{command}\b", (ROOT / page).read_text(encoding="utf-8"))
    assert max(map(len, told.partition("\n\n")[2].splitlines())) <= 80


@pytest.mark.parametrize("words", [[], ["report"], ["compare"]], ids=" ".join)
def test_the_help_of_the_bench(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        bench([*words, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"example: {' '.join(['scoresde-bench', *words])}\b.*; more: docs/\w+\.md", told)
    assert (ROOT / re.search(r"docs/\w+\.md", told)[0]).is_file()


def test_the_example_of_a_command_is_read_by_it(monkeypatch, capsys):
    """Its parser takes it: another word would be a usage error."""
    asked = []
    monkeypatch.setattr(argparse.ArgumentParser, "exit", lambda *_: asked.append("exit"))
    for entry in REGISTRY.entries("commands"):
        parser = argparse.ArgumentParser()
        REGISTRY.create("commands", entry.qualified).configure(parser)
        words = shlex.split(entry.row.example.removeprefix("source <(").removesuffix(")"))[2:]
        parsed, left = parser.parse_known_args(words)
        assert ([word for word in left if word.startswith("-")], asked) == ([], []), entry.row.name
        assert parsed is not None


@pytest.mark.parametrize(
    "words",
    [["list"], *(["list", kind] for kind in KINDS), ["plugins"], ["show", "predictor", "heun"], ["show", "sde", "ve"],
     ["show", "network", "ncsnpp"], ["show", "preset", "mnist_vp"], ["presets"]],
    ids=" ".join,
)  # fmt: skip
def test_tables_fit_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    narrow = capsys.readouterr().out
    assert [line for line in narrow.splitlines() if len(line) > 80 and max(map(len, line.split())) < 60] == []
    assert "\x1b" not in narrow
    monkeypatch.delenv("COLUMNS")
    assert main(words) == 0
    wide = capsys.readouterr().out
    assert "\x1b" not in wide
    assert "…" not in wide + narrow
    if words[0] == "show":  # nothing is lost; a table interleaves the cells of a row
        assert sorted(narrow.split()) == sorted(wide.split())
    if words == ["list", "predictors"]:
        assert len(wide.splitlines()) == 1 + len(REGISTRY.entries("predictors"))
        assert sorted(narrow.split(), key=len)[-1] in wide


def test_names_are_whole_in_a_narrow_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["list", "presets"]) == 0
    words = set(capsys.readouterr().out.split())
    assert {entry.row.name for entry in REGISTRY.entries("presets")} <= words


def test_paragraphs_are_filled_and_formulas_stay(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    prose, formula = "one two three four five six seven\neight nine ten eleven twelve", "    x = a + b"
    text = f"{prose}\n\n{formula}\n\n- an item that is long enough to be wrapped here"
    assert reflowed(f"short\n\n{formula}") == f"short\n\n{formula}"
    filled = reflowed(text).splitlines()
    assert filled[:2] == ["one two three four five six seven eight", "nine ten eleven twelve"]
    assert filled[3] == formula
    assert max(map(len, filled)) <= 40


def test_doctor(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORESDE_DISABLE_PLUGINS", "nobody")
    (tmp_path / "rows.yaml").write_text(
        "api: 1\nsdes:\n  far: {target: 'far:Far', summary: far, requires: [a-library-that-is-not]}\n"
    )
    assert main(["doctor", "--registry", "rows.yaml"]) == 0
    told = capsys.readouterr().out
    import torch

    for text in (f"torch {torch.__version__.partition('+')[0]}", "cpu, ", "SCORESDE_DISABLE_PLUGINS nobody"):
        assert text in " ".join(told.split())
    assert "a-library-that-is-not (pip install a-library-that-is-not) for far" in " ".join(told.split())
    assert re.findall(r"^(\w+):", told, re.M) == ["scoresde", "python", "system", "libraries", "devices", "plugins",
                                                  "missing", "free", "settings"]  # fmt: skip
    assert max(len(line) for line in told.splitlines() if len(line.split()) > 2) <= 80
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plugins"]["scoresde"].split()[1] == "ok,"
    assert "pytest" not in found["libraries"]  # of an extra
    assert found["libraries"]["torch"].startswith(torch.__version__.partition("+")[0])


def test_doctor_tells_of_a_library_that_cannot_be_imported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"]["torchvision"].startswith("cannot be imported: failed with ModuleNotFoundError")
    assert found["devices"] == ["failed with ModuleNotFoundError: import of torch halted; None in sys.modules"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of what is installed."""
    path = tmp_path_factory.mktemp("page") / "installed.html"
    assert main(["list", "--html", str(path)]) == 0
    return path


class TestThePage:
    def test_all_is_there(self, page):
        text = page.read_text(encoding="utf-8")
        assert text.count("<details>") == len(REGISTRY.entries())
        for entry in REGISTRY.entries():
            assert f'<span class="name">{REGISTRY.shown_name(entry)}</span>' in text
        assert "alpha = e^{-B/2}, sigma = sqrt(1 - e^{-B})" in text
        assert '<td><code>beta_max</code></td><td>20.0</td><td class="soft">float</td>' in text
        assert '<a href="https://arxiv.org/abs/2206.00364">arXiv:2206.00364</a>, Algorithm 2' in text
        assert "&#39;published&#39; or &#39;exact&#39;" in text
        assert '<a href="https://doi.org/10.1016/j.jspi.2013.03.018">' in text

    def test_nothing_comes_from_elsewhere(self, page):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text) == []
        assert "@import" not in text
        assert "url(" not in text

    def test_a_page_of_ours_is_replaced_and_nothing_else(self, page, tmp_path, capsys):
        assert main(["list", "sdes", "--html", str(page)]) == 0
        assert page.read_text(encoding="utf-8").count("<details>") == len(REGISTRY.entries("sdes"))
        other = tmp_path / "mine.html"
        other.write_text("<!doctype html>\nmine")
        assert main(["catalogue", str(other)]) == 3
        assert "exists and is no page of this command" in capsys.readouterr().err
        assert other.read_text() == "<!doctype html>\nmine"
