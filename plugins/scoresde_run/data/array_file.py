"""Files of numbers with one event a row: ``.npy``, an array of an ``.npz`` file, a ``.csv`` or ``.parquet`` table.

A table has numbers between commas, and may begin with a line of names.
"""

import csv
from array import array as growing
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scoresde_core import FileError, UsageError
from ..machine import inputs

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
TABLES = (".csv", ".parquet")
EVENTS = ("images", "samples", "floats", "decoded")
"""What the events of an ``.npz`` file with several arrays may be called."""


def read(path: Path, key: str | None = None, wanted: Sequence[str] = EVENTS, *, header: bool = False) -> NDArray[Any]:
    """The only array, the one called ``key``, or the first of those ``wanted``; by ``header`` its shape and type."""
    if path.suffix not in (".npy", *TABLES):
        with inputs.arrays(path) as file:
            name = _chosen(path, file.names, key, wanted)
            shape, dtype = file.header(name)
            _check(path, shape, dtype)
            found = np.broadcast_to(np.zeros((), dtype), shape) if header else file[name]
    elif key is not None:
        unnamed = f"one array without a name, none called {key!r}"
        raise UsageError(f"{path} has {unnamed}: leave it out, or give an .npz file")
    else:
        found = table(path)[0] if path.suffix in TABLES else inputs.array(path, mapped=header)
        _check(path, found.shape, found.dtype)
    return found if header else found.astype(found.dtype.newbyteorder("="), copy=path.suffix in TABLES)


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if 0 in shape:
        raise UsageError(f"{path} is empty: its events have the shape {list(shape)}")
    if not shape or dtype.kind not in "biuf" or dtype.itemsize > 8:
        wanted = "numbers of at most 64 bits, one event per row"
        raise UsageError(f"{path} holds {dtype} of shape {list(shape)}: give {wanted}")


def beside(path: Path, key: str | None) -> list[str]:
    """The other arrays of two or more axes in an ``.npz`` file with as many rows as that of the events, ``key``."""
    if path.suffix != ".npz":
        return []
    with inputs.arrays(path) as file:
        own, heads = _chosen(path, file.names, key, EVENTS), {name: file.header(name) for name in file.names}
    rows = heads.pop(own)[0][:1]
    return [name for name, (shape, dtype) in heads.items() if shape[:1] == rows and shape[1:] and dtype.kind in "biuf"]


def _chosen(path: Path, names: Sequence[str], key: str | None, wanted: Sequence[str]) -> str:
    given = f"has the arrays {', '.join(names)}" if names else "has no array"
    if key is not None and key not in names:
        raise UsageError(f"{path} {given}, none called {key!r}: key=...")
    for name in [key] if key else names if len(names) == 1 else wanted:
        if name in names:
            return name
    raise UsageError(f"{path} {given}: name the events {wanted[0]!r}")


def table(path: Path) -> tuple[NDArray[np.float64], Sequence[str]]:
    """The numbers (N, D) of a ``.csv`` or ``.parquet`` file, and the names of its columns; FileError for others."""
    with inputs.reading(path, f"a {path.suffix} table") as found:
        return (_parquet if path.suffix == ".parquet" else _table)(found, found.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _parquet(path: Path, version: int) -> tuple[NDArray[np.float64], Sequence[str]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path} needs pyarrow to be read: pip install 'scoresde[data]'") from error
    about = parquet.read_metadata(path)
    inputs.check_expansion(8 * about.num_rows * about.num_columns, path.stat().st_size, "the table")
    found = parquet.read_table(path)
    columns = [found[name].to_numpy() for name in found.column_names]
    for name, column in zip(found.column_names, columns, strict=True):
        if column.dtype.kind not in "biuf" or not np.isfinite(column).all():
            wrong = f"the column {name!r} of {path} has {column.dtype} values, some of which are no finite numbers"
            raise FileError(f"{wrong}: leave it out")
    return np.stack(columns, 1).astype(np.float64), found.column_names


@lru_cache(maxsize=2)
def _table(path: Path, version: int) -> tuple[NDArray[np.float64], Sequence[str]]:
    numbers, width, names = growing("d"), 0, []
    lines = csv.reader(inputs.text(path, None).splitlines())
    for row in filter(None, lines):
        values = [_number(text) for text in row]
        wrong = [text for text, value in zip(row, values, strict=True) if not abs(value) < np.inf]
        if not width and len(wrong) == len(row):
            width, names = len(row), [name.strip() for name in row]
        elif wrong:
            remedy = "write finite numbers between commas, and names in the first line alone"
            raise FileError(f"line {lines.line_num} of {path} has {wrong[0][:40]!r}, not a number: {remedy}")
        elif len(row) != (width := width or len(row)):
            few = f"line {lines.line_num} of {path} has {len(row)} columns, the first line {width}"
            raise FileError(f"{few}: give each line as many")
        else:
            numbers.extend(values)
    if not numbers:
        raise FileError(f"{path} has no line of numbers: write one event a line, with commas between its numbers")
    return np.frombuffer(numbers).reshape(-1, width), names


def column(path: Path, name: str) -> int:
    """The number of a table's column."""
    if name not in (names := table(path)[1]):
        raise UsageError(f"{path} has no column {name!r}: it has {', '.join(names) or 'no line of names'}")
    return names.index(name)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
