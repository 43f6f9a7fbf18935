"""``scoresde presets``, and ``scoresde show KIND NAME`` of a kind that is data: the file, whole.

A checkpoint that a plugin ships is shown as the configuration that it was made from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..kinds import find_kind
from ..registry import Entry, Registry

if TYPE_CHECKING:
    from ..models.config import Config


def configure(commands: Any) -> None:
    """Add the command, which is short for ``scoresde list presets``."""
    from .listing import list_components

    parser = commands.add_parser("presets", help="the models that can be built by name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=list_components, kind="presets")


def find_preset(registry: Registry, text: str) -> Config:
    """The preset called ``text``, or the one in the YAML file ``text``."""
    if not text.endswith((".yaml", ".yml")):
        preset: Config = registry.create("presets", text)
        return preset
    from ..models.config import Config

    path = Path(text)
    if not path.is_file():
        raise UsageError(f"there is no preset file {path}; a name without .yaml is looked up in 'scoresde presets'")
    return Config.read(path.parent, path.name)


def show(entry: Entry, found: Any, as_json: bool) -> int:
    """Print a preset or a suite, or a checkpoint's configuration, resolved; the text is itself a file of its kind."""
    from ..models.config import Config

    row = entry.row
    document = getattr(found, "config", found)
    made = {} if document is found else {"step": found.step, **found.provenance}
    if as_json:
        about = {"name": row.name, "summary": row.summary, "paper": row.paper, "plugin": entry.owner}
        key = "config" if isinstance(document, Config) else find_kind(row.kind).singular
        print(json.dumps({**about, "target": row.target, **made, key: document.plain()}, indent=2))
        return 0
    print(f"# {row.name}: {row.summary}")
    facts = {"paper": row.paper, "plugin": entry.owner, "target": row.target, **made}
    for label, value in facts.items():
        if value:
            print(f"# {label + ':':8} {value}")
    print(document.to_yaml(), end="")
    return 0
