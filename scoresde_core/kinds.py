"""The table of kinds. A new kind of component is one row and one contract class.

The core's own kinds are listed here. Other packages declare theirs in a registry file (:mod:`.manifest`).
"""

from importlib import import_module
from typing import Any, get_args

import attrs
from .errors import PluginError, UnknownName, near_misses


@attrs.frozen
class Kind:
    """A kind of component: its plural name (the registry's key), its singular, its contract and one line of help.

    The components of a ``data`` kind are files, which its contract reads: ``contract.read(folder, name)``.
    """

    name: str
    singular: str
    contract: str
    summary: str
    data: bool = False

    def load_contract(self) -> Any:
        """Return the contract class. This imports torch, so listing never calls it."""
        module, _, attribute = self.contract.partition(":")
        return getattr(import_module(module), attribute)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("sdes", "sde", "scoresde_core.sde:Process", "forward noising process, such as a Gaussian path"),
        Kind("predictors", "predictor", "scoresde_core.steps:Predictor", "one reverse-time step t -> t_next"),
        Kind("correctors", "corrector", "scoresde_core.steps:Corrector", "MCMC steps at fixed t"),
        Kind("losses", "loss", "scoresde_core.loss:Loss", "per-sample training loss of a score model"),
        Kind("evaluators", "evaluator", "scoresde_core.evaluator:Evaluator", "a metric with its error and floor"),
        Kind("samplers", "sampler", "scoresde_core.sampler:Sampler", "the loop from the prior to a sample"),
        Kind("grids", "grid", "scoresde_core.schedule:Grid", "the times of N steps for an SDE"),
        Kind("targets", "target", "scoresde_core.target:Target", "a distribution with closed-form score and density"),
        Kind("commands", "command", "scoresde_core.command:Command", "a subcommand of scoresde"),
    )
}


def declare(kind: Kind) -> None:
    """Add a kind to the table; :class:`PluginError` if its plural or singular name is taken."""
    for known in KINDS.values():
        if known != kind and {known.name, known.singular} & {kind.name, kind.singular}:
            why = f"the kind {kind.name!r} of {kind.contract} has a name that {known.contract} has: rename it"
            raise PluginError(why)
    KINDS[kind.name] = kind


def kind_of(annotation: Any) -> str | None:
    """The kind of component that a parameter of this type takes, or None."""
    classes = [member for member in (annotation, *get_args(annotation)) if isinstance(member, type)]
    paths = {f"{cls.__module__}:{cls.__qualname__}" for member in classes for cls in member.__mro__}
    return next((kind.name for kind in KINDS.values() if kind.contract in paths), None)


def find_kind(name: str) -> Kind:
    """The kind called ``name`` in the plural or the singular; the error for an unknown name lists near misses."""
    for kind in KINDS.values():
        if name in (kind.name, kind.singular):
            return kind
    raise UnknownName(f"no kind of component is called {name!r}.{near_misses(name, list(KINDS))}")
