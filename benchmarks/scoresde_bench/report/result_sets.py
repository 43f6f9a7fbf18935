"""Reads rows from folders of results, files of rows, or committed results.

scoresde-runs/1a2b3c4d        a folder with results.jsonl and its pictures
results.jsonl                 a file of rows, from scoresde-bench or scoresde evaluate
few_step                      a folder of benchmarks/results, by name, in the root of a checkout
"""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs
from scoresde_core import UsageError, near_misses
from scoresde_run.results.results import read_rows
from .combinations import identity, tell_apart
from .labels import ResultRow

COMMITTED = Path("benchmarks/results")


@attrs.frozen
class ResultSet:
    """Rows that were measured together, their name, and the folder of their pictures."""

    name: str
    folder: Path
    rows: list[ResultRow]

    @property
    def commands(self) -> list[str]:
        """The commands that produced the rows, in order of appearance."""
        return list(dict.fromkeys(str(row["command"]) for row in self.rows if row.get("command")))


def read_result_sets(paths: Sequence[str]) -> list[ResultSet]:
    """Read one set of rows per path, with unique names.

    Raises UsageError if a path has no results, FileError if it cannot be read.
    """
    files = [_find(path) for path in paths]
    named = [Path(path) if Path(path).is_dir() else file.parent for path, file in zip(paths, files, strict=True)]
    names = [folder.name or folder.resolve().name for folder in named]
    names = [path if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)]
    names = [f"{name} ({n})" if (n := names[: i + 1].count(name)) > 1 else name for i, name in enumerate(names)]
    rows = [tell_apart([_of_a_run(row) for row in read_rows(file).values()]) for file in files]
    return [ResultSet(name, file.parent, found) for name, file, found in zip(names, files, rows, strict=True)]


def _of_a_run(row: ResultRow) -> ResultRow:
    """Replace the folder of a training run's checkpoint by that of the run, because the step is an axis of its own."""
    folder = Path(str(row.get("checkpoint") or ""))
    step = re.fullmatch(r"step_0*(\d+)", folder.name)
    if step is None or int(step[1]) != row.get("training_step"):
        return row
    run = folder.parent.parent if folder.parent.name == "models" else folder.parent
    return {**row, "checkpoint": str(run)}


def merge(runs: Sequence[ResultSet]) -> list[ResultRow]:
    """Return the rows of all sets, each with the folder of its pictures.

    If two sets have the same combination, an axis ``run`` tells rows apart.
    """
    held = Counter(names for run in runs for names in {identity(row) for row in run.rows})
    apart = any(times > 1 for times in held.values())
    names = [{"folder": str(run.folder)} | ({"run": run.name} if apart else {}) for run in runs]
    return [{**row, **named} for run, named in zip(runs, names, strict=True) for row in run.rows]


def _find(path: str) -> Path:
    given = Path(path)
    for place in (given, COMMITTED / path):
        if place.is_file():
            return place
        if (place / "results.jsonl").is_file():
            return place / "results.jsonl"
    if given.exists():
        raise UsageError(f"no results.jsonl in {path}: give a folder written by scoresde-bench, or a file of rows")
    committed = sorted(folder.name for folder in COMMITTED.glob("*/")) if COMMITTED.is_dir() else []
    hint = near_misses(path, committed) if committed else " Give a folder written by scoresde-bench, or a file of rows."
    raise UsageError(f"no results at {shlex.quote(path)}.{hint}")
