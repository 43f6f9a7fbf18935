"""The result store: one JSON object a line, appended and flushed as each cell ends, so that a kill loses nothing.

A line cut short by a kill is dropped when the file is next opened. A cell that was run again (after a failure) has
two lines; the last one counts.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ..errors import FileError
from .rows import SCHEMA

Row = dict[str, Any]


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
        self.rows = self._read()

    def _read(self) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        text = self.path.read_text(encoding="utf-8", errors="replace")
        complete, newline, cut = text.rpartition("\n")
        if cut:
            os.truncate(self.path, len((complete + newline).encode()))
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                row = json.loads(line)
                if row["schema"] > SCHEMA:
                    raise FileError(f"{self.path} has schema {row['schema']}, this version reads {SCHEMA}: upgrade")
                rows[row["cell"]] = row
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise FileError(
                    f"{self.path}, line {number}, is not a result row: mend or remove it, or choose another --out"
                ) from error
        return rows

    def finished(self, cell: str) -> Row | None:
        """The row of a cell that is done or skipped; failed cells are to be run again."""
        row = self.rows.get(cell)
        return row if row and row["status"] != "failed" else None

    def append(self, row: Row) -> None:
        """Write one row to disk before returning."""
        line = json.dumps(_finite(row), allow_nan=False, default=str)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[row["cell"]] = row


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
