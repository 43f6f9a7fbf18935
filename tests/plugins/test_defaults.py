"""Defaults are part of what a committed row, a documented command and a paper's name mean: none changes unnoticed.

After a change that is meant, ``python tests/plugins/test_defaults.py`` writes them anew; check the difference.
"""

from pathlib import Path

import attrs
import yaml
from scoresde_core import default_registry
from scoresde_core.components import parameters

FILE = Path(__file__).with_name("defaults.yaml")
FILES = ("presets", "checkpoints", "suites")  # whose values are those of a file, with tests of their own


def written(value, registry):
    """A default as text, a component as it is typed."""
    if value is ...:
        return "of other parameters"
    return str(registry.typed(value) or value) if attrs.has(type(value)) else repr(value)


def defaults():
    registry, found = default_registry(), {}
    for entry in registry.entries():
        if entry.owner == "scoresde" and entry.row.kind not in FILES:
            known = parameters(registry.load(entry.row.kind, entry.qualified))
            values = {one.name: written(one.default, registry) for one in known if one.default is not attrs.NOTHING}
            found |= {f"{entry.row.kind}/{entry.row.name}": values} if values else {}
    return found


def test_no_default_changes_unnoticed():
    assert defaults() == yaml.safe_load(FILE.read_text())


if __name__ == "__main__":
    FILE.write_text(yaml.safe_dump(defaults(), width=10_000, default_flow_style=None))
