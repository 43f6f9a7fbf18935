"""A network that brings its weights with it, named on the command line: a configuration from its options."""

from typing import Any

from scoresde_core import Registry, UsageError, parse
from ..models.config import Config, ModelConfig
from ..models.network import Network


def is_own(registry: Registry, text: str) -> bool:
    """Whether ``text`` names a network rather than a preset: it has parameters in brackets."""
    return "[" in text and bool(registry.claims("networks", parse(text).name))


def own_config(registry: Registry, text: str, sde: str | None = None, **typed: Any) -> Config:
    """The configuration of the network ``text`` under ``sde``; ``typed`` are options that are its parameters.

    :class:`UsageError` for a network that does not know the shape of its events or its process, where neither is given.
    """
    spec = parse(text)
    spec.params.update({name: value for name, value in typed.items() if value is not None})
    network: Network = registry.create("networks", spec)
    network.trust()
    if network.fixed_shape is None:
        raise UsageError(f"{spec.name} does not tell the shape of its events: write {spec.name}[shape=[1,28,28],...]")
    process = network.process if sde is None else parse(sde)
    if process is None:
        raise UsageError(f"{spec.name} does not tell its forward process: give --sde, such as --sde vp")
    return Config(ModelConfig(spec, process, network.fixed_shape))
