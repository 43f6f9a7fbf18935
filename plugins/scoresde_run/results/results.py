"""The result store: one JSON object per line, appended and flushed when a cell ends, so that a kill loses no row.

One process at a time, the holder of the claim, writes it. The next claim drops a line that a kill cut short. A cell
that was run again (after a failure) has two lines, of which the last counts. Cells that ran on other machines leave
their rows in ``arrived/``, one file per cell, which the holder of the claim appends.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scoresde_core import FileError
from ..machine import files, inputs
from ..machine.digest import DIGEST, digest_of
from ..machine.lock import held
from .rows import SCHEMA, fault

Row = dict[str, Any]
ARRIVED = "arrived"
_REMEDY = "fix or remove it, or choose another --out"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def read_rows(path: Path, remedy: str = "fix or remove it", tell: Callable[[str], object] = _warn) -> dict[str, Row]:
    """Read the last row of every cell in a file, without a last line that a kill cut short.

    A line that is no row (:func:`.rows.fault`) is left out, and one line names it to ``tell``. Raises
    :class:`FileError` for a file that cannot be read, that has lines but no row, or that has a row of a newer version.
    """
    with inputs.reading(path):
        text = inputs.text(path, None, "replace")
    rows: dict[str, Row] = {}
    faults: list[str] = []
    *lines, last = text.removeprefix("\ufeff").split("\n")  # some editors put a mark of byte order first
    for number, line in enumerate([*lines, *([last] if parse(last, path)[1] is None else [])], 1):
        if line.strip():
            row, wrong = parse(line, path)
            if wrong is None:
                rows[row["cell"]] = row
            else:
                faults.append(f"{path}, line {number}, is not a result row: {wrong}")
    if faults and not rows:
        raise FileError(f"{faults[0]}; {remedy}")
    for each in faults:
        tell(f"{each}; it is left out")
    return rows


def parse(line: str, path: Path) -> tuple[Row, str | None]:
    """Return the row in a line of ``path``, and its fault if it is none. Raises :class:`FileError` for a newer row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}, "it is not JSON"
    version = row.get("schema") if isinstance(row, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise FileError(f"{path} has schema {version}, this version reads {SCHEMA}: upgrade")
    return row, fault(row)


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
        self.rows = read_rows(self.path, _REMEDY, tell=lambda text: None)  # told when the rows are claimed

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
                row = read_arrived(path)
            except FileError as error:
                _warn(f"{error}; its cell is run again")
                continue
            key = row["cell"]
            if self.finished(key) is None and self.rows.get(key) != row:  # else it was appended before a kill
                self.append(row)
                found.append(row)
            with files.writing(path):
                path.unlink()
        return found

    def repair(self) -> None:
        """Drop a line that a kill cut short, or end one that is whole, and read the rows; for the only writer."""
        with files.writing(self.path):
            whole, _, last = self.path.read_bytes().rpartition(b"\n")
            if last and parse(last.decode(errors="replace"), self.path)[1] is None:
                with self.path.open("ab") as file:
                    file.write(b"\n")
            elif last:
                os.truncate(self.path, len(whole) + bool(whole))
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
            why = f"{error.strerror or error}; earlier rows are kept: make room, and repeat the command to resume"
            raise FileError(f"cannot write {self.path}: {why}") from error
        self.rows[row["cell"]] = json.loads(line)


def leave(row: Row, folder: Path) -> None:
    """Write a row to ``arrived/`` for the holder of the claim of ``folder``."""
    files.write(folder / ARRIVED / f"{row['cell']}.json", to_json(row))


def read_arrived(path: Path) -> Row:
    """Read a row from a file in ``arrived/``. Raises :class:`FileError` if it is none."""
    with inputs.reading(path):
        row, wrong = parse(inputs.text(path, None, "replace"), path)
    if wrong is not None:
        raise FileError(f"{path} is not a result row: {wrong}")
    return row


def to_json(row: Row) -> str:
    """The row as JSON on one line, with the digest of its content."""
    plain = json.loads(json.dumps(_finite(row), allow_nan=False, default=str))
    return json.dumps({**plain, DIGEST: digest_of(plain)})


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
