"""Separates rows of one combination that were measured with different source, files or versions.

When a plugin or file is edited, its cells run again under new keys and the old rows stay in the results. Then every row
of the combination says how it was measured: ``now``, or ``with an earlier`` plugin or file. Such rows are not pooled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scoresde_run.results.rows import changed

from .labels import COMPONENT_AXES, ResultRow, is_done

IDENTITY = (*COMPONENT_AXES, "steps", "training_step", "dtype", "tf32", "samples", "batch_size")
"""The axes that identify a combination."""
NOW = "now"


def identity(row: ResultRow) -> tuple[Any, ...]:
    """Return the combination of a row: its names and numbers without seed, device and versions."""
    return tuple(str(row.get(axis) or "") for axis in IDENTITY)


def tell_apart(rows: Sequence[ResultRow], current: Collection[str] | None = None) -> list[ResultRow]:
    """Return ``rows`` with an axis ``measured`` where source, files or versions differ within a combination.

    The rows of the cells ``current``, or else the newest, are ``now``. Earlier rows that are not done are dropped.
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
    """Return the ``rows`` with the combination and seed of one of ``asked`` under another key, and what changed."""
    now = {(identity(row), row.get("seed")): row for row in asked}
    cells = {row["cell"] for row in asked}
    others = [(row, now.get((identity(row), row.get("seed")))) for key, row in rows.items() if key not in cells]
    found = [(row, changed(row, since)) for row, since in others if since is not None]
    return [(row, names) for row, names in found if names]


def summary(found: Sequence[tuple[ResultRow, Sequence[str]]]) -> str:
    """Return the result of :func:`earlier` in one line."""
    names = ", ".join(dict.fromkeys(name for _, each in found for name in each))
    rows = "1 row of these cells was" if len(found) == 1 else f"{len(found)} rows of these cells were"
    return f"{rows} measured with an earlier version of {names}; shown beside the new ones, not reused"


def is_current(row: ResultRow) -> bool:
    """Whether no row of the same combination is newer."""
    return bool(row.get("measured", NOW) == NOW)
