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
    found = {v.metric: {"value": v.value, "stderr": v.stderr} for v in values if v.fits(row)}
    return {**row, "published": found} if found else row


def metrics(rows: Sequence[ResultRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.get("published") or {} if text(row, name)))


def value(row: ResultRow, metric: str) -> tuple[float | None, float]:
    """Return a published value, None if it is missing, and its standard error, nan if that is."""
    entry = (row.get("published") or {}).get(metric)
    found, stderr = (entry.get("value"), entry.get("stderr")) if isinstance(entry, dict) else (entry, None)
    return as_float(found) if math.isfinite(as_float(found)) else None, as_float(stderr)


def text(row: ResultRow, metric: str) -> str:
    """Return a published value as text, with its error if published, or an empty string."""
    found, stderr = value(row, metric)
    if found is None:
        return ""
    return f"{found:g}" if math.isnan(stderr) else quantity(found, stderr)


def sources(rows: Sequence[ResultRow]) -> list[str]:
    found = ((row.get("published") or {}).get("source") for row in rows)
    return list(dict.fromkeys(str(source) for source in found if source))
