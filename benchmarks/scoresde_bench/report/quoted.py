"""Numbers that a paper printed for a combination, quoted beside what was measured, never mixed with it.

A row may carry ``published``: metrics by their names, each a number or ``{"value": 2.41, "stderr": null}``, and
perhaps ``source`` in words, such as ``{"fid": 2.41, "source": "Song et al. 2021, Table 1"}``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .labels import Row, as_float, quantity


def figures(rows: Sequence[Row]) -> list[str]:
    """The metrics that any row has a published number for."""
    names = dict.fromkeys(name for row in rows for name in row.get("published") or {} if name != "source")
    return [name for name in names if any(value(row, name) is not None for row in rows)]


def value(row: Row, metric: str) -> float | None:
    """A published number, or None."""
    found = _entry(row, metric)[0]
    return found if math.isfinite(found) else None


def shown(row: Row, metric: str) -> str:
    """A published number as text, with its error where one was printed, or nothing."""
    found, stderr = _entry(row, metric)
    return quantity(found, stderr) if math.isfinite(found) else ""


def sources(rows: Sequence[Row]) -> list[str]:
    """Where the published numbers of ``rows`` stand."""
    found = ((row.get("published") or {}).get("source") for row in rows)
    return list(dict.fromkeys(str(source) for source in found if source))


def _entry(row: Row, metric: str) -> tuple[float, float]:
    """A published number and its standard error; what is missing is nan."""
    entry = (row.get("published") or {}).get(metric)
    if isinstance(entry, dict):
        return as_float(entry.get("value")), as_float(entry.get("stderr"))
    return as_float(entry), math.nan
