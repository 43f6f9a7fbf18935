"""Sequences of the calls that every command is made of, with every operation failed in turn, and the power lost.

    python tests/sequences.py try_all write_twice FOLDER

A program of its own, without torch, because it forks for every operation.
"""

import os
import pickle
import sys
from pathlib import Path

import faults
import power
from scoresde_core.errors import FileError
from scoresde_run.machine import files
from scoresde_run.results.results import Results, leave

ROWS = [{"schema": 2, "cell": name, "status": "done", "value": name * 9} for name in "abc"]


def write_twice(folder, report):
    for content in ("first", "second"):
        files.write(folder / "deep" / "it", content)
        report(folder / "deep" / "it")


def replace_a_folder(folder, report):
    files.clean(folder)
    for content in ("first", "second"):
        if (folder / "it").exists():
            files.discard(folder / "it")
        with files.new_folder(folder / "it") as scratch:
            (scratch / "a").write_text(content)
            (scratch / "b").write_text(content)
    report(folder / "it" / "a")
    report(folder / "it" / "b")


def lock_a_folder(folder, report):
    with files.locked(folder / "it", "working"):
        files.write(folder / "it" / "a", "content")
        report(folder / "it" / "a")


def append_rows(folder, report):
    """Two cells of this machine, and one of another."""
    results = Results(folder / "out")
    with results.claim():
        for row in ROWS[:2]:
            if results.finished(row["cell"]) is None:
                results.append(row)
                report(results.path)
        leave(ROWS[2], folder / "out")
        results.collect()
        report(results.path)


SEQUENCES = {each.__name__: each for each in (write_twice, replace_a_folder, lock_a_folder, append_rows)}


def try_all(sequence, folder):
    """Fail every operation of ``sequence``, and repeat it."""
    straight = attempt(sequence, folder / "straight", faults.Fault())
    count, expected = len(straight["trace"]), content(folder / "straight")
    assert count > 5
    for mode in ("kill", *faults.ERRORS):
        for number in range(1, count + 1):
            place = folder / f"{mode}-{number}"
            attempt(sequence, place, faults.Fault(number, mode))
            lines = whole_lines(place)
            attempt(sequence, place, faults.Fault())
            assert content(place) == expected, (mode, number, content(place))
            assert lines == [line for line in whole_lines(place) if line in lines], (mode, number)


def try_power(sequence, folder):
    """Lose the power after every operation, with every prefix of what is not flushed, and repeat ``sequence``."""
    straight = attempt(sequence, folder / "straight", faults.Fault())
    expected = content(folder / "straight")
    (folder / "start").mkdir()
    disk, place = power.Disk(folder / "start", straight["trace"]), folder / "place"
    for count in range(len(straight["trace"]) + 1):
        for lucky in disk.outcomes(count):
            disk.after(count, place, lucky)
            for time, name, told in straight["reports"]:
                later = [other for when, same, other in straight["reports"] if same == name and when > time]
                if time <= count:
                    now = (place / name).read_bytes() if (place / name).exists() else b""
                    assert now.startswith(told) or now in later, (count, name, now)
            attempt(sequence, place, faults.Fault())
            assert content(place) == expected, (count, straight["trace"][:count], content(place))
    disk.after(len(straight["trace"]), place, [])
    assert expected.items() <= content(place).items()  # what was removed may come back


def attempt(sequence, folder, fault):
    """Run ``sequence`` with a fault in a child; return its trace, and what it reported as written, if it ends."""
    folder.mkdir(exist_ok=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        hooked, reports, code = faults.Hooked(folder, fault), [], 1

        def report(path):
            reports.append((len(hooked.trace), str(path.relative_to(folder)), path.read_bytes()))

        try:
            with hooked.installed():
                sequence(folder, report)
            code = 0
        except FileError:
            code = 3
        finally:
            os.write(write, pickle.dumps({"trace": hooked.trace, "reports": reports}))
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in ((0,) if not fault.number else (faults.KILLED,) if fault.mode == "kill" else (0, 3)), (fault, code)
    return pickle.loads(told) if told else None


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole_lines(folder):
    path = folder / "out" / "results.jsonl"
    return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


if __name__ == "__main__":
    os.umask(0o022)
    globals()[sys.argv[1]](SEQUENCES[sys.argv[2]], Path(sys.argv[3]))
