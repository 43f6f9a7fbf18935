"""Hostile input of every grammar, a few of each; ``tests/long/fuzz.py`` gives as many as it is told."""

import contextlib
import io
import os
import signal
import tempfile
from pathlib import Path

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from scoresde_bench import cli
from scoresde_run.commands.shell import main


def late(*_):
    raise TimeoutError("it hangs")


def run(case):
    """Run a case in this process, in a folder of its own; returns (exit code, stdout, stderr)."""
    out, err, home = io.StringIO(), io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, data in case.files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        os.chdir(folder)
        signal.signal(signal.SIGALRM, late)
        signal.alarm(20)
        try:
            code = cli.main(case.words[1:]) if case.words[0] == "bench" else main(case.words)
        except SystemExit as error:
            code = error.code or 0
        finally:
            signal.alarm(0)
            os.chdir(home)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("grammar", hostile.GRAMMARS)
def test_one_line_and_an_exit_code(grammar):
    @settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(hostile.GRAMMARS[grammar])
    def holds(case):
        code, out, err = run(case)
        assert hostile.fault(code, out, err) is None, (case, code, err)

    holds()


@pytest.mark.parametrize(
    ("end", "what"),
    [
        ((1, "", "error: a is damaged\n"), None),
        ((0, "done\n", "warning: slow\n"), None),
        ((70, "", "error: a\n"), "exit code 70"),
        ((1, "", "Traceback (most recent call last):\n"), "traceback"),
        ((1, "", "error: KeyError: 'a' (b.py, line 1; --debug shows the traceback)\n"), "unexpected error"),
        ((1, "", "error: out of memory: use a smaller batch or fewer steps\n"), "memory"),
        ((0, "", "error: a\n"), "1 errors, exit code 0"),
        ((2, "", ""), "0 errors, exit code 2"),
        ((0, "\x1b[2J\n", ""), "control characters"),
    ],
)
def test_a_fault_is_seen(end, what):
    assert hostile.fault(*end) == what
