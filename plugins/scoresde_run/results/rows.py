"""Result rows of all commands: their schema, their warnings, and changes of what they depend on."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..machine.digest import is_changed

SCHEMA = 2
"""The version of a row. Version 2 added the digests of ``sources`` and ``files``."""

_NEEDED = ("schema", "cell", "status")
_KINDS: dict[str, tuple[type, ...]] = {
    **{"text": (str,), "an integer": (int,), "a number": (int, float), "true or false": (bool,)},
    **{"a mapping": (dict,), "a list": (list,)},
}
_FIELDS = {
    "text": "cell status reason target checkpoint network sde known condition method sampler predictor corrector grid "
    "guidance precision compile dtype device torch python platform scoresde git date command picture traceback run "
    "measured folder",
    "an integer": "schema steps training_step seed samples observations observations_seed batch_size calls",
    "a number": "nfe products seconds samples_per_second compile_seconds evaluation_seconds cell_seconds "
    "peak_memory_bytes",
    "true or false": "tf32 timing",
    "a mapping": "parameters plugins sources files metrics metrics_skipped warnings published costs",
    "a list": "evaluators seeds",
}
_ENTRIES = {"text": "evaluators metrics_skipped warnings plugins", "an integer": "seeds"}
"""Fields whose entries are all of one kind."""
_METRIC = {
    "text": "unit better",
    "a number": "value stderr floor floor_stderr df floor_df stderr_across_seeds stderr_within_seeds",
    "a mapping": "details",
}


def fault(row: Any) -> str | None:
    """The first fault of a row read from JSON, or None; only ``schema``, ``cell`` and ``status`` are required."""
    return next(_faults(row), None)


def _faults(row: Any) -> Iterator[str]:
    if not isinstance(row, dict):
        yield "it is no mapping"
        return
    yield from (f"{key} is missing" for key in _NEEDED if not row.get(key))
    for kind, names in _FIELDS.items():
        yield from _wrong(row, kind, names.split())
    for kind, names in _ENTRIES.items():
        for name in names.split():
            entries = row.get(name) or {}
            named = entries if isinstance(entries, dict) else dict(enumerate(entries))
            yield from _wrong(named, kind, where=f"{name}.")
    metrics = row.get("metrics") or {}
    yield from _wrong(metrics, "a mapping", where="metrics.")
    for name, entry in metrics.items():
        if not entry or "value" not in entry:
            yield f"metrics.{name}.value is missing"
            return
        for kind, names in _METRIC.items():
            yield from _wrong(entry, kind, names.split(), f"metrics.{name}.")
    if is_changed(row):
        yield "it was changed after it was written: its digest is that of another content"


def _wrong(found: Mapping[Any, Any], kind: str, names: Iterable[Any] | None = None, where: str = "") -> Iterator[str]:
    """The fields ``names`` (None: all) that are neither missing, null nor of ``kind``."""
    for name in found if names is None else names:
        value = found.get(name)
        fits = isinstance(value, _KINDS[kind]) and (kind == "true or false" or not isinstance(value, bool))
        if value is not None and not (fits and (not isinstance(value, int) or abs(value) < 2**63)):
            text = json.dumps(value)
            yield f"{where}{name} must be {kind}, got {text if len(text) < 60 else text[:57] + '...'}"


def warnings_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The warnings of rows and their metrics: the first of each name, with the number of others."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, text in (row.get("warnings") or {}).items():
            found.setdefault(name, {})[text] = None
        for name, metric in (row.get("metrics") or {}).items():
            if "warning" in (metric.get("details") or {}):
                found.setdefault(name, {})[str(metric["details"]["warning"])] = None
    return [first + (f" (and {len(more)} more like it)" if more else "") for first, *more in found.values()]


def changed(row: Mapping[str, Any], since: Mapping[str, Any]) -> list[str]:
    """The names of dependencies that two rows of one combination share and that changed."""
    if (row.get("schema") or 1) < 2 <= (since.get("schema") or 1):
        return ["scoresde"]  # version 1 has no sources
    found = [name for key in ("plugins", "sources") for name in _unlike(row.get(key), since.get(key))]
    found += [Path(name).name for name in _unlike(row.get("files"), since.get("files"))]
    return found or _unlike(row.get("parameters"), since.get("parameters"))


def _unlike(a: Any, b: Any) -> list[str]:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return []
    return [name for name, value in a.items() if name in b and b[name] != value]
