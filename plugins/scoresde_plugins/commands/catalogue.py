"""``scoresde catalogue FILE``, also ``scoresde list --html FILE``: one page, without scripts, of all components."""

import argparse
import inspect
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import KINDS, Command, Entry, FileError, Registry, ScoreSDEError
from scoresde_run.commands.listing import parameter_rows
from scoresde_run.machine.version import own_version

OURS = "<!doctype html><!-- scoresde list --html -->"  # the head of a page that this command wrote and may replace


@attrs.frozen
class CatalogueCommand(Command):
    """Writes a page of all components, with parameters, formulas and papers: ``scoresde list --html FILE``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("html", metavar="FILE", help="the page to write; one of this command is replaced")
        parser.add_argument("--kind", metavar="KIND", help="the components of this kind alone")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        import jinja2
        from scoresde_run.machine.files import write

        path, entries = Path(arguments.html), registry.entries(arguments.kind)
        if path.exists() and not (path.is_file() and path.read_bytes().startswith(OURS.encode())):
            raise FileError(f"{path} exists and is no page of this command: choose another FILE, or remove it")
        text = files("scoresde_plugins").joinpath("scaffold/catalogue.html.j2").read_text(encoding="utf-8")
        of = {kind: [dict(_about(e, registry)) for e in entries if e.row.kind == name] for name, kind in KINDS.items()}
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters["paper"] = _linked
        kinds = [(kind, found) for kind, found in of.items() if found]
        page = environment.from_string(text).render(kinds=kinds, plugins=registry.statuses, version=own_version())
        write(path, f"{OURS}\n{page}\n")
        print(f"wrote {path}: {len(entries)} components")
        return 0


def _about(entry: Entry, registry: Registry) -> Iterator[tuple[str, Any]]:
    yield from (("row", entry.row), ("owner", entry.owner), ("name", registry.shown_name(entry)))
    if KINDS[entry.row.kind].data:
        return
    try:
        cls = registry.load(entry.row.kind, entry.qualified)
    except ScoreSDEError as error:  # such as a distribution that is missing
        yield "error", str(error)
        return
    yield "doc", re.sub(r"(?m)^(\S.*)\n(?=[^\s*-])", r"\1 ", inspect.getdoc(cls) or "")  # paragraphs as lines
    yield "parameters", parameter_rows(cls)


def _linked(paper: str) -> Any:
    from markupsafe import Markup, escape

    found = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', str(escape(paper)))
    return Markup(re.sub(r"doi:([^\s,;]+)", r'<a href="https://doi.org/\1">doi:\1</a>', found))
