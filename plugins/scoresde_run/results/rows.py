"""Result rows of all commands: their version, their warnings, and changes of what they depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 2
"""The version of a row. Version 2 added the digests of ``sources`` and ``files``."""


def warnings_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The warnings of rows and their metrics: the first of each name, with the number of others."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, text in (row.get("warnings") or {}).items():
            found.setdefault(name, {})[text] = None
        for name, metric in (row.get("metrics") or {}).items():
            if "warning" in metric.get("details", {}):
                found.setdefault(name, {})[metric["details"]["warning"]] = None
    return [first + (f" (and {len(more)} more like it)" if more else "") for first, *more in found.values()]


def changed(row: Mapping[str, Any], since: Mapping[str, Any]) -> list[str]:
    """The names of dependencies that two rows of one combination share and that changed."""
    if (row.get("schema") or 1) < 2 <= (since.get("schema") or 1):
        return ["scoresde"]  # version 1 has no sources
    found = [name for key in ("plugins", "sources") for name in _unlike(row.get(key), since.get(key))]
    found += [Path(name).name for name in _unlike(row.get("files"), since.get("files"))]
    return found or _unlike(row.get("parameters"), since.get("parameters"))


def _unlike(a: Any, b: Any) -> list[str]:
    """The names in both mappings whose values differ."""
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return []
    return [name for name, value in a.items() if name in b and b[name] != value]
