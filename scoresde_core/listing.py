"""The commands ``scoresde list``, ``show`` and ``plugins``. Listing imports no component, and so no torch."""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import attrs

from .components import parameters
from .errors import UsageError
from .kinds import KINDS, find_kind
from .registry import Entry, Registry


def configure(commands: Any) -> None:
    """Add the parsers of the three commands."""
    listed = commands.add_parser("list", help="components, with plugin, summary and paper")
    listed.add_argument("kind", nargs="?", metavar="KIND", help=f"one of: {', '.join(KINDS)}")
    shown = commands.add_parser("show", help="parameters, formula, paper and source of a component")
    shown.add_argument("kind", metavar="KIND")
    shown.add_argument("name", metavar="NAME")
    plugins = commands.add_parser("plugins", help="every plugin with its status and reason")
    for parser, run in ((listed, list_components), (shown, _show), (plugins, _plugins)):
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=run)


def list_components(arguments: argparse.Namespace, registry: Registry) -> int:
    """``scoresde list``: the components of one kind or of all."""
    entries = registry.entries(arguments.kind)
    if arguments.json:
        print(json.dumps([_record(entry) for entry in entries], indent=2))
        return 0
    for kind in [find_kind(arguments.kind)] if arguments.kind else KINDS.values():
        rows = [e for e in entries if e.row.kind == kind.name]
        if rows or arguments.kind:
            print(f"{kind.name}: {kind.summary}")
            print_table([(registry.shown_name(e), e.owner, e.row.summary, e.row.paper) for e in rows], indent="  ")
    broken = [status for status in registry.statuses if status.state != "ok"]
    if broken:
        print(f"{', '.join(s.owner for s in broken)}: not loaded, see 'scoresde plugins'")
    return 0


def _record(entry: Entry) -> dict[str, Any]:
    record = attrs.asdict(entry.row)
    target = record["target"]
    record["target"] = target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
    return {**record, "plugin": entry.owner, "qualified": entry.qualified}


def _show(arguments: argparse.Namespace, registry: Registry) -> int:
    entry = registry.find(arguments.kind, arguments.name)
    if find_kind(arguments.kind).data:
        return _show_file(entry, registry.create(arguments.kind, arguments.name), arguments.json)
    cls = registry.load(arguments.kind, arguments.name)
    record = _record(entry)
    record["grid"] = _grid_of(cls, registry)
    record["source"] = inspect.getsourcefile(cls)
    record["doc"] = inspect.getdoc(cls) or ""
    record["parameters"], rows = [], []
    for p in parameters(cls):
        required = p.default is attrs.NOTHING
        default = None if required else _plain(p.default)
        facts = {"name": p.name, "type": p.type_name, "default": default, "required": required, "help": p.help}
        record["parameters"].append(facts)
        rows.append((p.name, p.type_name, "required" if required else str(default), p.help))
    if arguments.json:
        print(json.dumps(record, indent=2))
        return 0
    print(f"{find_kind(arguments.kind).singular} {entry.row.name}: {entry.row.summary}\n\n{record['doc']}\n")
    print("parameters:" if rows else "no parameters")
    print_table(rows, indent="  ")
    for label in ("grid", "paper", "plugin", "target", "source"):
        if record[label]:
            print(f"{label + ':':8} {record[label]}")
    return 0


def _show_file(entry: Entry, found: Any, as_json: bool) -> int:
    """Print a component that is a file in the format of that file; for a checkpoint, its configuration."""
    row = entry.row
    document = getattr(found, "config", found)
    made = {} if document is found else {"step": found.step, **found.provenance}
    facts = {"paper": row.paper, "plugin": entry.owner, "target": row.target, **made}
    if as_json:
        key = type(document).__name__.lower()
        print(json.dumps({"name": row.name, "summary": row.summary, **facts, key: document.plain()}, indent=2))
        return 0
    print(f"# {row.name}: {row.summary}")
    for label, value in facts.items():
        if value:
            print(f"# {label + ':':8} {value}")
    print(document.to_yaml(), end="")
    return 0


def _grid_of(cls: type, registry: Registry) -> str | None:
    """The grid of a predictor class, as it would be typed."""
    from .schedule import Grid

    grid = getattr(cls, "grid", None)
    return str(registry.typed(grid) or grid) if isinstance(grid, Grid) else None


def _plugins(arguments: argparse.Namespace, registry: Registry) -> int:
    statuses = registry.statuses
    if arguments.json:
        records = [
            {"plugin": s.owner, "version": s.version, "status": s.state, "reason": s.detail, "components": len(s.rows)}
            for s in statuses
        ]
        print(json.dumps(records, indent=2))
        return 0
    if not statuses:
        raise UsageError("no plugin is installed, not even the bundled one: reinstall scoresde")
    print_table([(s.owner, s.version, s.state, s.detail or f"{len(s.rows)} components") for s in statuses])
    return 0


def _plain(value: Any) -> Any:
    """A default for JSON; a component is shown as its class."""
    if value is ...:
        return "follows from others"
    if attrs.has(type(value)):
        return type(value).__name__
    return value if isinstance(value, bool | int | float | str | list | tuple | None) else str(value)


def print_table(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Print aligned columns; lines are only cut on a terminal that is too narrow for them."""
    if not rows:
        return
    columns = [[str(cell) for cell in column] for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    limit = shutil.get_terminal_size((200, 24)).columns if sys.stdout.isatty() else 10_000
    for row in zip(*columns, strict=True):
        line = indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if len(line) <= limit else line[: limit - 1] + "…")
