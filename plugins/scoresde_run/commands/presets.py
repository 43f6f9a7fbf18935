"""``scoresde presets``, and the configurations that a command line names: a preset, or a network with its weights."""

import argparse
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import Command, Registry, UsageError, parse
from ..models.config import Config, ModelConfig
from .listing import list_components


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
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        return registry.create("presets", text)  # type: ignore[no-any-return]
    if not path.is_file():
        raise UsageError(f"there is no preset file {path}; a name without .yaml is looked up in 'scoresde presets'")
    return Config.read(path.parent, path.name)


def is_own(registry: Registry, text: str) -> bool:
    """Whether ``text`` names a network rather than a preset: it has parameters in brackets."""
    return "[" in text and bool(registry.claims("networks", parse(text).name))


def own_config(registry: Registry, text: str, sde: str | None = None, **typed: Any) -> Config:
    """The configuration of the network ``text`` under ``sde``; ``typed`` are options that are its parameters."""
    spec = parse(text)
    spec.params.update({name: value for name, value in typed.items() if value is not None})
    network = registry.create("networks", spec)
    network.trust()
    if network.fixed_shape is None:
        raise UsageError(f"{spec.name} does not tell the shape of its events: write {spec.name}[shape=[1,28,28],...]")
    process, known = network.trained
    spec.params.update({**known, **spec.params})
    if (process := process if sde is None else parse(sde)) is None:
        raise UsageError(f"{spec.name} does not tell its forward process: give --sde, such as --sde vp")
    return Config(ModelConfig(spec, process, network.fixed_shape))
