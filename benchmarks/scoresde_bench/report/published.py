"""Values that a paper published, shown beside measured ones and never ranked.

A suite lists them with the names of their cells. A row may have ``published``: metrics by name, each a number or
``{"value": 2.41, "stderr": null}``, and optionally their ``source``, such as
``{"fid": 2.41, "source": "Song et al. 2021, Table 1"}``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from scoresde_core import OURS
from .labels import ResultRow, as_float, quantity


@attrs.frozen
class PublishedValue:
    """A paper's value of a metric, for the cells that have all names in ``where``."""

    metric: str
    value: float
    stderr: float | None
    where: Mapping[str, str]

    def fits(self, row: ResultRow) -> bool:
        """Whether the row has all names in ``where``."""
        return all(str(row.get(axis)).removeprefix(f"{OURS}:") == value for axis, value in self.where.items())


def attach(row: dict[str, Any], values: Sequence[PublishedValue]) -> dict[str, Any]:
    """Return the row with the values that are for it as ``published``: {metric: {value, stderr}}."""
    found = {v.metric: {"value": v.value, "stderr": v.stderr} for v in values if v.fits(row)}
    return {**row, "published": found} if found else row


def metrics(rows: Sequence[ResultRow]) -> list[str]:
    """Return the metrics for which any row has a published value."""
    names = dict.fromkeys(name for row in rows for name in row.get("published") or {} if name != "source")
    return [name for name in names if any(value(row, name) is not None for row in rows)]


def value(row: ResultRow, metric: str) -> float | None:
    found = _entry(row, metric)[0]
    return found if math.isfinite(found) else None


def text(row: ResultRow, metric: str) -> str:
    """Return a published value as text, with its error if published, or an empty string."""
    found, stderr = _entry(row, metric)
    if not math.isfinite(found):
        return ""
    return f"{found:g}" if math.isnan(stderr) else quantity(found, stderr)


def sources(rows: Sequence[ResultRow]) -> list[str]:
    found = ((row.get("published") or {}).get("source") for row in rows)
    return list(dict.fromkeys(str(source) for source in found if source))


def _entry(row: ResultRow, metric: str) -> tuple[float, float]:
    """A published value and its standard error; nan for what is missing."""
    entry = (row.get("published") or {}).get(metric)
    if isinstance(entry, dict):
        return as_float(entry.get("value")), as_float(entry.get("stderr"))
    return as_float(entry), math.nan
