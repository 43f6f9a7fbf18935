"""The result store: one JSON object per line, appended and flushed when a cell ends, so that a kill loses no row.

One process at a time, the holder of the claim, writes it. The next claim drops a line that a kill cut short. A cell
that was run again (after a failure) has two lines, of which the last counts. Cells that ran on other machines leave
their rows in ``arrived/``, one file per cell, which the holder of the claim appends.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scoresde_core.errors import FileError

from ..machine import files
from ..machine.lock import held
from .rows import SCHEMA

Row = dict[str, Any]
ARRIVED = "arrived"
_REMEDY = "fix or remove it, or choose another --out"


def read_rows(path: Path, remedy: str = "fix or remove it") -> dict[str, Row]:
    """Read the last row of every cell in a file, without a last line that a kill cut short.

    Raises :class:`FileError` for a file that cannot be read, and for a line that is not a row or of a newer version.
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
            files.make((folder / "pictures").absolute())
            with self.path.open("a", encoding="utf-8"):
                pass
            files.flush(folder)
            files.flush(folder.absolute().parent)
        except OSError as error:
            raise FileError(f"cannot write to {folder}: {error.strerror}; choose another with --out") from error
        self.rows = read_rows(self.path, _REMEDY)

    @staticmethod
    def peek(folder: Path) -> dict[str, Row]:
        """Read the rows in ``folder`` by cell, without creating anything."""
        path = folder / "results.jsonl"
        return read_rows(path, _REMEDY) if path.is_file() else {}

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the claim until the end of the block or of this process; updates :attr:`rows`."""
        with held(self.path, "flock") as free:
            if not free:
                raise FileError(f"another scoresde-bench writes to {self.folder}: wait for it, or choose another --out")
            self.repair()
            files.clean(self.folder)
            self.collect()
            yield

    def collect(self) -> list[Row]:
        """Append the rows of cells that ran elsewhere, each once; return them."""
        found = []
        for path in sorted((self.folder / ARRIVED).glob("*.json")):
            try:
                row = json.loads(path.read_text(encoding="utf-8"))
                key = row["cell"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise FileError(f"{path} is not a result row: {_REMEDY}") from error
            if self.finished(key) is None and self.rows.get(key) != row:  # else it was appended before a kill
                self.append(row)
                found.append(row)
            with files.writing(path):
                path.unlink()
        return found

    def repair(self) -> None:
        """Drop a line that a kill cut short, and read the rows; for the only writer."""
        with files.writing(self.path):
            data = self.path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(self.path, data.rfind(b"\n") + 1)
        self.rows = read_rows(self.path, _REMEDY)

    def finished(self, cell: str) -> Row | None:
        """The row of a cell that is done or skipped; None if the cell is to be run."""
        row = self.rows.get(cell)
        return row if row and row["status"] != "failed" else None

    def append(self, row: Row) -> None:
        """Append a row, and flush it to the disk."""
        line = to_json(row)
        size = None
        try:
            size = self.path.stat().st_size
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if size is not None:
                with suppress(OSError):  # half a line would corrupt the next one, unless a new claim drops it
                    os.truncate(self.path, size)
            raise FileError(
                f"cannot write {self.path}: {error.strerror or error}; earlier rows are kept: make room, and repeat "
                "the command to resume"
            ) from error
        self.rows[row["cell"]] = json.loads(line)


def leave(row: Row, folder: Path) -> None:
    """Write a row to ``arrived/`` for the holder of the claim of ``folder``."""
    files.write(folder / ARRIVED / f"{row['cell']}.json", to_json(row))


def to_json(row: Row) -> str:
    """The row as JSON on one line."""
    return json.dumps(_finite(row), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
