"""Every command ends with the same exit codes, those of the table in docs/durability.md."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scoresde_bench import cli
from scoresde_core.components import parse
from scoresde_core.errors import FileError, ScoreSDEError, UsageError
from scoresde_core.registry import load_registry
from scoresde_run.commands.shell import Terminated, guarded, main

ENDINGS = {
    0: None,
    1: ScoreSDEError("a check failed"),
    2: UsageError("no such option"),
    3: FileError("no such file"),
    70: RuntimeError("nobody expected this"),
    130: KeyboardInterrupt(),
    143: Terminated(),
    141: BrokenPipeError(),
}
"""How the work of a command may end, by exit code."""
PAGE = Path(__file__).parents[2] / "docs" / "durability.md"
LISTING = {"list": ("list_components",), "show": ("_show", "sde", "vp"), "plugins": ("_plugins",)}


def test_the_page_has_all_codes():
    table = PAGE.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    assert sorted(int(code) for cell in cells for code in cell.split(",")) == sorted(ENDINGS)


@pytest.mark.parametrize("code", ENDINGS)
def test_every_command_ends_with(code, monkeypatch, capsys):
    def work(*_):
        if ENDINGS[code] is not None:
            raise ENDINGS[code]
        return 0

    monkeypatch.setattr("os.dup2", lambda *_: None)  # else the output of the tests is closed
    monkeypatch.setattr(cli, "_run", work)
    monkeypatch.setattr(cli, "COMMANDS", dict.fromkeys(cli.COMMANDS, work))
    found = {f"scoresde-bench {word}": cli.main([word]) for word in ("--predictor", *cli.COMMANDS)}
    for word, (function, *more) in LISTING.items():
        monkeypatch.setattr(f"scoresde_run.commands.listing.{function}", work)
        found[f"scoresde {word}"] = main([word, *more])
    registry = load_registry()
    for entry in registry.entries("commands"):
        command = type(registry.create("commands", parse(entry.qualified)))
        monkeypatch.setattr(command, "configure", lambda self, parser: None)
        monkeypatch.setattr(command, "run", work)
        word = entry.row.name.replace("_", "-")
        found[f"scoresde {word}"] = main([word])
    assert len(found) > 20
    assert set(found.values()) == {code}, found
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") == (0 if code in (0, 141) else len(found)), error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_a_library_that_is_loading(number, code, monkeypatch, capsys):
    loaded, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)

    def work():
        monkeypatch.setattr(np.__spec__, "_initializing", True)
        for _ in range(3):  # of which one counts
            os.kill(os.getpid(), number)
            time.sleep(0.1)
        loaded.append(True)
        np.__spec__._initializing = False
        time.sleep(10)

    try:
        assert (guarded(work, False), loaded) == (code, [True])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["list", "sdes"], ["list", "--json"]])
def test_output_on_a_full_disk_is_one_line(words, unbuffered, tmp_path):
    command, how = [sys.executable, "-m", "scoresde_core", *words], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=how)
    assert (done.returncode, done.stderr) == (3, "error: cannot write the output: No space left on device\n")


def test_closed_output_fails_nothing(tmp_path):
    command = f"exec {sys.executable} -m scoresde_core list sdes >&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
