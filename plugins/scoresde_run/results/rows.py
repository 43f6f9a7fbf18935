"""What a row of results is, whichever command writes it: its version, and what it says against itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 2
"""The version of a row. Since 2 it has the digests of the ``sources`` and ``files`` that it depends on."""


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


def changed(row: Mapping[str, Any], since: Mapping[str, Any]) -> list[str]:
    """The names of what two rows of one combination both depend on and that is not the same: none where all is."""
    if (row.get("schema") or 1) < 2 <= (since.get("schema") or 1):
        return ["scoresde"]  # nothing is known of its source
    found = [name for key in ("plugins", "sources") for name in _unlike(row.get(key), since.get(key))]
    found += [Path(name).name for name in _unlike(row.get("files"), since.get("files"))]
    return found or _unlike(row.get("parameters"), since.get("parameters"))


def _unlike(a: Any, b: Any) -> list[str]:
    """The names that both mappings have, with another value."""
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return []
    return [name for name, value in a.items() if name in b and b[name] != value]
