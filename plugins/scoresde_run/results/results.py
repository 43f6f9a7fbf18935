"""The result store: one JSON object a line, appended and flushed as each cell ends, so that a kill loses nothing.

One process at a time writes it, who holds its claim. A line cut short by a kill is dropped at the next claim. A cell
that was run again (after a failure) has two lines; the last one counts. Cells that ran on other machines leave their
rows in ``arrived/``, a file a cell, from where the claimant takes them over.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scoresde_core.errors import FileError

from ..machine import files
from ..machine.lock import is_free
from .rows import SCHEMA

Row = dict[str, Any]
ARRIVED = "arrived"
_REMEDY = "mend or remove it, or choose another --out"


def read_rows(path: Path, remedy: str = "mend or remove it") -> dict[str, Row]:
    """The last row of every cell in a file; a last line that a kill cut short is left out.

    Raises FileError for a file that cannot be read, and for a line that is no row or is of a newer version.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    rows: dict[str, Row] = {}
    for number, line in enumerate(text.rpartition("\n")[0].splitlines(), 1):
        try:
            row = json.loads(line)
            if row["schema"] > SCHEMA:
                raise FileError(f"{path} has schema {row['schema']}, this version reads {SCHEMA}: upgrade")
            rows[row["cell"]] = row
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise FileError(f"{path}, line {number}, is not a result row: {remedy}") from error
    return rows


class Results:
    """The rows in ``folder/results.jsonl``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "results.jsonl"
        try:
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise FileError(f"cannot write to {folder}: {error.strerror}; choose another with --out") from error
        self.rows = read_rows(self.path, _REMEDY)

    @staticmethod
    def peek(folder: Path) -> dict[str, Row]:
        """The rows that are there, by cell, without making anything."""
        path = folder / "results.jsonl"
        return read_rows(path, _REMEDY) if path.is_file() else {}

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Be the one that writes, until the end of the body or of this process; brings :attr:`rows` up to date."""
        with self.path.open("a") as lock:
            # Not lockf, whose lock would end when a row is written and its file closed.
            if not is_free(lock, "flock"):
                raise FileError(f"another scoresde-bench writes to {self.folder}: wait for it, or choose another --out")
            self.mend()
            self.collect()
            yield

    def collect(self) -> list[Row]:
        """Take over the rows of cells that ran elsewhere, each once."""
        found = []
        for path in sorted((self.folder / ARRIVED).glob("*.json")):
            try:
                row = json.loads(path.read_text(encoding="utf-8"))
                key = row["cell"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise FileError(f"{path} is not a result row: mend or remove it, or choose another --out") from error
            if self.finished(key) is None and self.rows.get(key) != row:  # else it was taken over before a kill
                self.append(row)
                found.append(row)
            path.unlink()
        return found

    def mend(self) -> None:
        """Drop a line that a kill cut short, and read what there is; for who alone writes."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(self.path, data.rfind(b"\n") + 1)
        self.rows = read_rows(self.path, _REMEDY)

    def finished(self, cell: str) -> Row | None:
        """The row of a cell that is done or skipped; failed cells are to be run again."""
        row = self.rows.get(cell)
        return row if row and row["status"] != "failed" else None

    def append(self, row: Row) -> None:
        """Write one row to disk before returning."""
        line, size = to_json(row), self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, size)  # half a line would spoil the next one
            raise FileError(
                f"cannot write {self.path}: {error.strerror or error}; what it had is kept: make room, and the "
                "same command goes on"
            ) from error
        self.rows[row["cell"]] = json.loads(line)


def leave(row: Row, folder: Path) -> None:
    """Leave a row for whoever claims ``folder``, whole or not at all."""
    files.write(folder / ARRIVED / f"{row['cell']}.json", to_json(row))


def to_json(row: Row) -> str:
    """The row on one line."""
    return json.dumps(_finite(row), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
