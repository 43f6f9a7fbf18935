"""Rows of one combination that were measured with other source, files or versions: told apart, and never pooled.

Such a row stays in its file when a plugin or a file that it depends on is edited, and the cell runs again under another
key. Where a file holds both, every row of the combination says when it was measured: ``now``, or with an earlier what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scoresde_run.results.rows import changed

from .labels import COMPONENT_AXES, ResultRow, is_done

IDENTITY = (*COMPONENT_AXES, "steps", "training_step", "dtype", "tf32", "samples", "batch_size")
"""The axes that two measurements of one combination agree in."""
NOW = "now"


def identity(row: ResultRow) -> tuple[Any, ...]:
    """What a row is by its names and numbers: not its seed, and not where or with which versions it was measured."""
    return tuple(str(row.get(axis) or "") for axis in IDENTITY)


def tell_apart(rows: Sequence[ResultRow], current: Collection[str] | None = None) -> list[ResultRow]:
    """``rows`` with an axis ``measured`` where one combination was measured with different things.

    Those of the cells ``current``, or else the newest, are of now. Of earlier ones that did not run nothing is kept.
    """
    newest: dict[tuple[Any, ...], ResultRow] = {}
    for row in sorted(rows, key=lambda row: str(row.get("date") or "")):
        if current is None or row.get("cell") in current:
            newest[identity(row)] = row
    what = [changed(row, newest.get(identity(row), row)) for row in rows]
    apart = {identity(row) for row, names in zip(rows, what, strict=True) if names}
    found: list[ResultRow] = []
    for row, names in zip(rows, what, strict=True):
        when = f"with an earlier {', '.join(names)}" if names else NOW
        if not names or is_done(row):
            found.append({**row, **({"measured": when} if identity(row) in apart else {})})
    return found


def earlier(rows: Mapping[str, ResultRow], asked: Sequence[ResultRow]) -> list[tuple[ResultRow, list[str]]]:
    """Those of ``rows``, by cell, that are of one combination and seed with one of ``asked``, and what has changed."""
    now = {(identity(row), row.get("seed")): row for row in asked}
    cells = {row["cell"] for row in asked}
    others = [(row, now.get((identity(row), row.get("seed")))) for key, row in rows.items() if key not in cells]
    found = [(row, changed(row, since)) for row, since in others if since is not None]
    return [(row, names) for row, names in found if names]


def told(found: Sequence[tuple[ResultRow, Sequence[str]]]) -> str:
    """What :func:`earlier` found, in one line."""
    names = ", ".join(dict.fromkeys(name for _, each in found for name in each))
    rows = "1 row of these cells was" if len(found) == 1 else f"{len(found)} rows of these cells were"
    return f"{rows} measured with an earlier version of {names}; shown beside the new ones, never used for them"


def is_current(row: ResultRow) -> bool:
    """Whether no other row of its combination is of newer source."""
    return bool(row.get("measured", NOW) == NOW)
