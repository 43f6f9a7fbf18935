"""Every file-system operation may fail, or be the last: what repeats a command ends as if nothing had happened.

``tests/long/kill_operations.py`` tries every operation of every command; here are all those of the calls
that the commands are made of, and some of each command.
"""

import random
import shutil
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import faults
import pytest
import sequences
import writers
from runs import rows_in


@pytest.mark.parametrize("what", ["try_all", "try_power"])
@pytest.mark.parametrize("name", sequences.SEQUENCES)
def test_every_operation_of(name, what, tmp_path):
    program = [sys.executable, sequences.__file__, what, name, str(tmp_path)]
    subprocess.run(program, check=True, cwd=tmp_path, timeout=100)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with what the commands read."""
    folder = tmp_path_factory.mktemp("start")
    writers.prepare(folder)
    place = tmp_path_factory.mktemp("place")
    rows = faults.run([*writers.COMMANDS["scoresde-bench"][:-1], "rows"], folder, place / "log")
    assert rows.code == 0, rows.err
    return folder


@pytest.mark.parametrize(("name", "mode"), [*zip(writers.COMMANDS, cycle(faults.MODES), strict=False)])
def test_an_operation_of(name, mode, start, tmp_path):
    trial = faults.Trial(name, writers.COMMANDS[name], start, tmp_path)
    number = random.Random(name).randrange(1, len(trial.straight.operations) + 1)
    assert trial.survives(faults.Fault(number, mode)) is None


def test_the_same_command_after_success_changes_nothing(start, tmp_path):
    for name in ("export", "fit-target"):
        trial = faults.Trial(name, writers.COMMANDS[name], start, tmp_path / name)
        place = Path(trial.folder / "straight")
        before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
        again = faults.run(trial.words, place, trial.folder / "log")
        assert (again.code, again.err) == (0, "")
        assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == before


def test_a_picture_that_cannot_be_written_fails_no_evaluation(start, tmp_path):
    trial = faults.Trial("evaluate", writers.COMMANDS["evaluate"], start, tmp_path)
    places = [path for _, path in trial.straight.operations]
    number = 1 + next(k for k, path in enumerate(places) if path.startswith("out/pictures/."))
    place = tmp_path / "here"
    shutil.copytree(start, place)
    life = faults.run(trial.words, place, tmp_path / "log", faults.Fault(number, "EIO"))
    (row,) = rows_in(place / "out")
    assert (life.code, row["status"], row["picture"]) == (0, "done", None)
    assert "Input/output error" in row["warnings"]["picture"]
