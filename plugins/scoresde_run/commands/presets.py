"""``scoresde presets``, and looking presets up by name or file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from scoresde_core import Command, Registry, UsageError
from .listing import list_components

if TYPE_CHECKING:
    from ..models.config import Config


@attrs.frozen
class PresetsCommand(Command):
    """Lists the presets: short for ``scoresde list presets``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        arguments.kind = "presets"
        return list_components(arguments, registry)


def find_preset(registry: Registry, text: str) -> Config:
    """The preset named ``text``, or the one in the YAML file ``text``."""
    if not text.endswith((".yaml", ".yml")):
        preset: Config = registry.create("presets", text)
        return preset
    from ..models.config import Config

    path = Path(text)
    if not path.is_file():
        raise UsageError(f"there is no preset file {path}; a name without .yaml is looked up in 'scoresde presets'")
    return Config.read(path.parent, path.name)
