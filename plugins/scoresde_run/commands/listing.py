"""The commands ``scoresde list``, ``show`` and ``plugins``. Listing imports no component, and so no torch."""

import argparse
import inspect
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import attrs
from scoresde_core import KINDS, Entry, Registry, UsageError, find_kind, parameters


def configure(commands: Any) -> None:
    """Add the parsers of the three commands."""
    listed = commands.add_parser("list", **told("components, with plugin, summary and paper", "scoresde list sdes"))
    listed.add_argument("kind", nargs="?", metavar="KIND", help=f"one of: {', '.join(KINDS)}")
    listed.add_argument("--html", metavar="FILE", help="write a page of all components, with parameters and formulas")
    about = "parameters, formula, paper and source of a component"
    shown = commands.add_parser("show", **told(about, "scoresde show predictor ddim"))
    shown.add_argument("kind", metavar="KIND")
    shown.add_argument("name", metavar="NAME")
    plugins = commands.add_parser("plugins", **told("every plugin with its status and reason", "scoresde plugins"))
    for parser, run in ((listed, list_components), (shown, _show), (plugins, _plugins)):
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=run)


def told(summary: str, example: str = "", page: str = "docs/terminal.md", sentence: str = "") -> dict[str, Any]:
    """The help of a command: its summary in the list of all, and in its own a sentence, an example and a page."""
    width, sentence = shutil.get_terminal_size().columns - 2, sentence or f"{summary[:1].upper()}{summary[1:]}."
    return {
        "help": summary.replace("%", "%%"),  # argparse would format it
        "description": textwrap.fill(sentence, width),
        "epilog": "\n".join(f"{key}: {text}" for key, text in (("example", example), ("more", page)) if text),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def list_components(arguments: argparse.Namespace, registry: Registry) -> int:
    """``scoresde list``: the components of one kind or of all."""
    if getattr(arguments, "html", None):
        return registry.create("commands", "catalogue").run(arguments, registry)  # type: ignore[no-any-return]
    entries = registry.entries(arguments.kind)
    if arguments.json:
        print(json.dumps([_record(entry) for entry in entries], indent=2))
        return 0
    for kind in [find_kind(arguments.kind)] if arguments.kind else KINDS.values():
        rows = [e for e in entries if e.row.kind == kind.name]
        if rows or arguments.kind:
            print(f"{kind.name}: {kind.summary}")
            print_table([(registry.shown_name(e), e.owner, e.row.summary, e.row.paper) for e in rows], indent="  ")
    if broken := ", ".join(status.owner for status in registry.statuses if status.state != "ok"):
        print(f"{broken}: not loaded, see 'scoresde plugins'")
    return 0


def _record(entry: Entry) -> dict[str, Any]:
    target: Any = entry.row.target
    named = target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
    return {**attrs.asdict(entry.row), "target": named, "plugin": entry.owner, "qualified": entry.qualified}


def _show(arguments: argparse.Namespace, registry: Registry) -> int:
    entry = registry.find(arguments.kind, arguments.name)
    if find_kind(arguments.kind).data:
        return _show_file(entry, registry.create(arguments.kind, arguments.name), arguments.json)
    from scoresde_core import Grid  # which loads torch, as components do and presets do not

    cls = registry.load(arguments.kind, arguments.name)
    grid = getattr(cls, "grid", None)  # of a predictor
    record = _record(entry) | {"grid": str(registry.typed(grid) or grid) if isinstance(grid, Grid) else None}
    record |= {"source": inspect.getsourcefile(cls), "doc": inspect.getdoc(cls) or ""}
    record["parameters"] = [
        {"name": p.name, "type": p.type_name, "default": _plain(p.default), "required": p.default is attrs.NOTHING,
         "help": p.help} for p in parameters(cls)
    ]  # fmt: skip
    if arguments.json:
        print(json.dumps(record, indent=2))
        return 0
    title = f"{find_kind(arguments.kind).singular} {entry.row.name}: {entry.row.summary}"
    print(f"{reflowed(title)}\n\n{reflowed(record['doc'])}\n")
    rows = parameter_rows(cls)
    print("parameters:" if rows else "no parameters")
    print_table(rows, indent="  ")
    for label in (label for label in ("grid", "paper", "plugin", "target", "source") if record[label]):
        print(f"{label + ':':8} {record[label]}")
    return 0


def _show_file(entry: Entry, found: Any, as_json: bool) -> int:
    """Print a component that is a file in the format of that file; for a checkpoint, its configuration."""
    row, document = entry.row, getattr(found, "config", found)
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


def _plugins(arguments: argparse.Namespace, registry: Registry) -> int:
    statuses = registry.statuses
    if arguments.json:
        keys = ("plugin", "version", "status", "reason", "components")
        rows = [(s.owner, s.version, s.state, s.detail, len(s.rows)) for s in statuses]
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return 0
    if not statuses:
        raise UsageError("no plugin is installed, not even the bundled one: reinstall scoresde")
    print_table([(s.owner, s.version, s.state, s.detail or f"{len(s.rows)} components") for s in statuses])
    return 0


def parameter_rows(cls: type) -> list[tuple[str, str, str, str]]:
    """The name, type, default and help of each parameter of a component."""
    defaults = [(p, "required" if p.default is attrs.NOTHING else str(_plain(p.default))) for p in parameters(cls)]
    return [(p.name, p.type_name, default, p.help) for p, default in defaults]


def _plain(value: Any) -> Any:
    """A default for JSON; a component is shown as its class."""
    if value is attrs.NOTHING:
        return None
    if value is ...:
        return "follows from others"
    if attrs.has(type(value)):
        return type(value).__name__
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def print_table(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Print aligned columns; where they are too wide, the others than the first, whose long names stand alone, wrap."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = _width() - len(indent) - 2 * len(widths) + 2
    if sum(widths) > room:
        widths[0] = min(widths[0], 24)
    while sum(widths) > room and max(widths[1:]) > 8:
        widths[1 + widths[1:].index(max(widths[1:]))] -= 1
    for first, *others in rows:
        if len(first) > widths[0]:
            print(indent + first)
        cells = [[first if len(first) <= widths[0] else ""]]
        cells += [textwrap.wrap(c, w) if len(c) > w else [c] for c, w in zip(others, widths[1:], strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            print((indent + "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True))).rstrip())


def _width() -> int:
    """Columns of the terminal, or as ``COLUMNS`` has it; without a limit in a pipe."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return max(shutil.get_terminal_size().columns, 40) if known else 10_000


def reflowed(text: str) -> str:
    """``text``; where it is too wide, its paragraphs filled. Lines that are indented, such as formulas, stay lines."""
    if max(map(len, text.splitlines()), default=0) <= _width():
        return text
    lines = re.sub(r"(?m)^(\S.*)\n(?=[^\s*-])", r"\1 ", text).splitlines()
    pads = [" " * (len(line) - len(line.lstrip())) for line in lines]
    return "\n".join(textwrap.fill(x, _width(), subsequent_indent=pad) for x, pad in zip(lines, pads, strict=True))
