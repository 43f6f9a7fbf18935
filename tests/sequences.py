"""Sequences of the calls that every command is made of, with every operation failed in turn.

    python tests/sequences.py write_twice FOLDER

A program of its own, without torch, because it forks for every operation.
"""

import os
import sys
from pathlib import Path

import faults

from scoresde_core.errors import FileError
from scoresde_run.machine import files
from scoresde_run.results.results import Results, leave

ROWS = [{"schema": 2, "cell": name, "status": "done", "value": name * 9} for name in "abc"]


def write_twice(folder):
    files.write(folder / "deep" / "it", "first")
    files.write(folder / "deep" / "it", "second")


def replace_a_folder(folder):
    files.clean(folder)
    for content in ("first", "second"):
        if (folder / "it").exists():
            files.discard(folder / "it")
        with files.new_folder(folder / "it") as scratch:
            (scratch / "a").write_text(content)
            (scratch / "b").write_text(content)


def lock_a_folder(folder):
    with files.locked(folder / "it", "working"):
        files.write(folder / "it" / "a", "content")


def append_rows(folder):
    """Two cells of this machine, and one of another."""
    results = Results(folder)
    with results.claim():
        for row in ROWS[:2]:
            if results.finished(row["cell"]) is None:
                results.append(row)
        leave(ROWS[2], folder)
        results.collect()


SEQUENCES = {each.__name__: each for each in (write_twice, replace_a_folder, lock_a_folder, append_rows)}


def try_all(sequence, folder):
    """Fail every operation of ``sequence``, and repeat it."""
    os.umask(0o022)
    count, straight = attempt(sequence, folder / "straight", faults.Fault())
    assert count > 5
    for mode in faults.MODES:
        for number in range(1, count + 1):
            place = folder / f"{mode}-{number}"
            _, found = attempt(sequence, place, faults.Fault(number, mode))
            lines = whole_lines(place)
            _, found = attempt(sequence, place, faults.Fault())
            assert found == straight, (mode, number, found)
            assert lines == [line for line in whole_lines(place) if line in lines], (mode, number)


def attempt(sequence, folder, fault):
    """Run ``sequence`` with a fault in a child; return the number of operations, and what is in the folder then."""
    folder.mkdir(exist_ok=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        hooked, code = faults.Hooked(folder, fault), 1
        try:
            with hooked.installed():
                sequence(folder)
            code = 0
        except FileError:
            code = 3
        finally:
            os.write(write, str(len(hooked.operations)).encode())
            os._exit(code)
    os.close(write)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in ((0,) if not fault.number else (faults.KILLED,) if fault.mode == "kill" else (0, 3)), (fault, code)
    with os.fdopen(read) as pipe:
        count = int(pipe.read() or 0)
    return count, {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole_lines(folder):
    path = folder / "results.jsonl"
    return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


if __name__ == "__main__":
    try_all(SEQUENCES[sys.argv[1]], Path(sys.argv[2]))
