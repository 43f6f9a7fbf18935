"""Hostile input: empty values, odd files, control characters, folders that replace modules. One line, and no work."""

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table
from scoresde_bench import cli
from scoresde_core.components import Spec
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import Parser, guarded, main
from scoresde_run.machine.progress import Progress
from scoresde_run.machine.terminal import Terminal


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys):
    """Run ``scoresde``, or the bench, in an empty folder; returns (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(list(arguments[1:])) if arguments[0] == "bench" else main(list(arguments))
        return code, capsys.readouterr().err

    return run


def options():
    """Every command with each of its options that takes a value, and the type of the value."""
    registry, found = load_registry(), []
    for entry in registry.entries("commands"):
        parser = Parser()
        registry.create("commands", Spec(entry.qualified)).configure(parser)
        found += [(entry.row.name.replace("_", "-"), action) for action in parser._actions]
    found += [("bench", action) for action in cli._parser()._actions]
    taking = [(word, action) for word, action in found if action.option_strings and action.nargs != 0]
    return {(word, action.option_strings[-1]): action.type for word, action in taking}


class TestEmpty:
    """An unset variable is an empty argument; as a path it would be the working folder."""

    @pytest.mark.parametrize("value", ["", " "], ids=["empty", "blank"])
    def test_every_option_of_every_command(self, scoresde, tmp_path, value):
        asked = options()
        assert len(asked) > 100
        assert {"--out", "--checkpoint", "--suite", "--preset"} <= {option for _, option in asked}
        for word, option in asked:
            code, err = scoresde(word, f"{option}={value}")
            assert (code, err) == (
                2,
                f"error: argument {option}: the value is empty: give one, or leave the option out "
                f"(see 'scoresde{'-bench' if word == 'bench' else ' ' + word} --help')\n",
            )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("words", "name"),
        [
            (["train", "", "--out", "o"], "PRESET"),
            (["evaluate", "", "--out", "o"], "DIR"),
            (["bench", "report", ""], "RUN"),
            (["bench", "compare", "a", ""], "AFTER"),
            (["bench", "report", "a", "--out", ""], "--out"),
            (["list", "--registry", ""], "--registry"),
        ],
        ids=lambda found: " ".join(found[:2]) if isinstance(found, list) else found,
    )
    def test_a_place(self, scoresde, tmp_path, words, name):
        code, err = scoresde(*words)
        assert (code, "the value is empty" in err, err.startswith(f"error: argument {name}")) == (2, True, True), err
        assert list(tmp_path.iterdir()) == []

    def test_a_parameter(self, scoresde):
        code, err = scoresde("sample", "--target", "mfa[file='']", "--out", "o")
        assert (code, err) == (2, "error: target 'mfa': file is empty: give a value, or leave it out\n")

    def test_a_configuration(self, scoresde, tmp_path):
        (tmp_path / "a.yaml").write_text("format: 1\nmodel: {network: mlp, sde: vp, shape: [2]}\n")
        code, err = scoresde("train", "a.yaml", "data.dataset=npz[path='']", "--out", "o")
        assert (code, "data set 'npz': path is empty" in err or "dataset 'npz': path is empty" in err) == (2, True), err

    def test_a_suite(self, scoresde, tmp_path):
        (tmp_path / "a.yaml").write_text("format: 1\nblocks: [{checkpoint: ''}]\n")
        code, err = scoresde("bench", "--suite", "a.yaml")
        assert (code, 'block 1: cannot read checkpoint ""' in err) == (2, True), err


class TestNumbers:
    @pytest.mark.parametrize("value", ["-1", str(2**63), "9" * 5000, "1.5", "²"], ids=lambda text: text[:22])
    def test_a_seed(self, scoresde, value):
        """One rule for all commands: 0 to 2^63 - 1."""
        words = sorted(word for word, option in options() if option == "--seed")
        assert len(words) == 7
        for word in words:
            code, err = scoresde(word, f"--seed={value}")
            assert (code, err.count("\n"), "--seed" in err) == (2, 1, True), err
            assert "from 0 to 2^63 - 1" in err or word == "bench"

    def test_an_integer_beyond_64_bits(self, scoresde):
        asked = [found for found, kind in options().items() if kind is int]
        assert len(asked) > 20
        for word, option in asked:
            code, err = scoresde(word, f"{option}={2**63}")
            assert (code, f"{option}: {2**63} does not fit into 64 bits" in err) == (2, True), err

    def test_a_parameter_beyond_64_bits(self, scoresde):
        code, err = scoresde("bench", "--corrector", f"langevin[n_steps={2**63}]")
        assert (code, f"n_steps must be int, got {2**63} (beyond 64 bits)" in err) == (2, True), err


ESCAPE, SHOWN = "\x1b[2J\x9b31m\u202ebad", "\\x1b[2J\\x9b31m\\u202ebad"


class TestTerminal:
    """Nothing that others wrote moves the cursor, hides text or turns its direction."""

    @pytest.fixture(params=["summary", "target", "name"])
    def plugin(self, request, tmp_path):
        """A registry file with control characters in a summary, and a module whose error has some."""
        (tmp_path / "raising.py").write_text(f"print({ESCAPE!r})\nraise RuntimeError({ESCAPE!r})\n")
        row = f'{{target: "raising:Loss", summary: "{ESCAPE.encode("unicode_escape").decode()}"}}'
        (tmp_path / "mine.yaml").write_text(f"api: 1\nlosses:\n  mine: {row}\n")
        words = {
            "summary": ["list", "losses"],
            "target": ["show", "losses", "mine"],
            "name": ["show", "losses", ESCAPE],
        }
        return [*words[request.param], "--registry", str(tmp_path / "mine.yaml")]

    def test_a_plugin(self, plugin, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        main(plugin)
        text = "".join(capsys.readouterr())
        assert SHOWN in text.replace("\\\\", "\\")
        assert not set(ESCAPE) - set("bad[2J31m") & set(text)

    def test_a_path(self, scoresde, tmp_path):
        (tmp_path / f"{ESCAPE}\r").mkdir()
        code, err = scoresde("export", "--checkpoint", f"{ESCAPE}\r", "--out", "o")
        assert (code, err) == (3, f"error: {SHOWN}\\r is not a checkpoint: there is no model.yaml in it\n")

    def test_a_table_keeps_its_own_codes(self):
        table = Table("name", title=ESCAPE)
        table.add_row(ESCAPE, style="red")
        console = Terminal(force_terminal=True, width=200, color_system="standard")
        console.file = file = io.StringIO()
        console.print(table, ESCAPE, markup=False, highlight=False)
        assert file.getvalue().count(SHOWN) == 2  # the cell is cut to the width of the name
        assert "\x1b[31m" in file.getvalue()
        assert "\x1b[2J" not in file.getvalue()
        assert "\u202e" not in file.getvalue()

    def test_a_console_writes_beside_the_filter(self, capsys):
        def run():
            print(ESCAPE, "\t\r\n", end="")
            Terminal(force_terminal=True, color_system="standard").print(
                ESCAPE, style="red", highlight=False, markup=False
            )
            return 0

        assert guarded(run, debug=False) == 0
        assert capsys.readouterr().out == f"{SHOWN} \t\r\n\x1b[31m{SHOWN}\x1b[0m\n"

    def test_what_is_printed_beside_a_bar(self, capsys):
        def run():
            console = Terminal(stderr=True, force_terminal=True, color_system="standard", width=200)
            with Progress(console=console) as progress:
                progress.show(ESCAPE, 1, 2)
                print("\x1b[8mhidden", file=sys.stderr)
                print(ESCAPE)
            return 0

        before = sys.stdout, sys.stderr
        assert guarded(run, debug=False) == 0
        assert (sys.stdout, sys.stderr) == before
        out = capsys.readouterr()
        printed = out.out + out.err
        assert "\\x1b[8mhidden" in printed
        assert SHOWN in printed
        assert [code for code in ("\x1b[8m", "\x1b[2J", "\u202e") if code in printed] == []

    def test_a_long_name(self, scoresde):
        code, err = scoresde("show", "losses", "a" * 100_000)
        assert (code, err.count("\n"), len(err) < 2000, "no loss is called 'aaa" in err) == (2, 1, True, True)

    @pytest.mark.parametrize(
        "words",
        [
            ["sample", "--target", "mixture2d", "--out", "NAME"],
            ["sample", "--checkpoint", "NAME", "--out", "o"],
            ["train", "NAME.yaml", "--out", "o"],
            ["list", "--registry", "NAME"],
            ["bench", "report", "NAME"],
            ["bench", "--suite", "NAME.yaml"],
        ],
        ids=lambda words: words[0] + words[-2],
    )
    def test_a_name_that_is_too_long_for_a_file(self, scoresde, words):
        name = "a" * 100_000
        code, err = scoresde(*(word.replace("NAME", name) for word in words))
        assert (code, err.count("\n"), len(err) < 500) == (3, 1, True), err
        assert err.startswith("error: cannot use aaaa")
        assert err.endswith("File name too long\n")


@pytest.mark.parametrize("package", ["scoresde", "scoresde_core", "scoresde_bench"])
def test_the_working_folder_replaces_no_library(package, tmp_path):
    """Not under ``-m``, which puts it first in ``sys.path``."""
    for name in ("attrs", "attr", "yaml", "pluggy", "torch", "rich", "argparse", "shutil", "json", "random", "pathlib"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the working folder')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-m", package, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr, done.stdout.split()[0].split("-")[0]) == (0, "", "scoresde")


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_that_wait_leave_their_cores_unless_told_otherwise(given, monkeypatch):
    monkeypatch.setattr("os.environ", dict(given))
    assert guarded(lambda: 0, debug=False) == 0
    assert os.environ == (given or {"GOMP_SPINCOUNT": "10000"})
