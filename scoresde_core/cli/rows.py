"""What a row of results is, whichever command writes it: its version, and components as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

SCHEMA = 1
"""The version of a row."""


def describe(component: Any) -> Any:
    """A component as plain data: its parameters, and what else its text shows, such as the hash of a file."""
    if attrs.has(type(component)):
        fields = [f for f in attrs.fields(type(component)) if f.init or (f.repr and not f.name.startswith("_"))]
        values = {f.alias or f.name: describe(getattr(component, f.name)) for f in fields}
        return {"type": f"{type(component).__module__}:{type(component).__qualname__}", **values}
    if isinstance(component, list | tuple):
        return [describe(item) for item in component]
    return component if isinstance(component, bool | int | float | str | None) else str(component)


def warnings_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What rows say against their samples, and metrics against their values: the first of each, and how many more."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, text in (row.get("warnings") or {}).items():
            found.setdefault(name, {})[text] = None
        for name, metric in (row.get("metrics") or {}).items():
            if "warning" in metric.get("details", {}):
                found.setdefault(name, {})[metric["details"]["warning"]] = None
    return [first + (f" (and {len(more)} more like it)" if more else "") for first, *more in found.values()]
