"""The hook specifications: one ``scoresde_register_<kind>`` for each kind, and the lifecycle hooks.

A plugin implements any of them with :data:`hookimpl`; an implementation may take fewer arguments than its hook.

    from scoresde_core import hookimpl

    @hookimpl
    def scoresde_register_sdes(register):
        register("cosine_vp", "my_package.sdes:CosineVP", summary="cosine schedule", paper="arXiv:2102.09672")

``register(name, target, *, summary, paper, aliases, requires)`` adds one component; ``target`` is a class, or a string
``"package.module:Class"`` that is resolved on first use.
"""

from typing import Any

import pluggy
from .kinds import KINDS

API = 1
"""Version of this interface. A plugin or manifest that needs a newer one is incompatible."""

PREFIX = "scoresde_"
hookspec = pluggy.HookspecMarker("scoresde")
hookimpl = pluggy.HookimplMarker("scoresde")


class Lifecycle:
    """Hooks called during a run. An exception in an implementation is reported once and ends the run."""

    @hookspec
    def scoresde_on_training_step(self, step: int, loss: Any, state: Any) -> None:
        """After optimiser step ``step``; ``loss`` is a 0-dim tensor on the device, ``state`` the training state."""

    @hookspec
    def scoresde_on_sampling_step(self, done: int, total: int, x: Any) -> None:
        """After step ``done`` of ``total`` (0: unknown) of a sampler; ``x`` (B, ...) is the state, not a copy."""

    @hookspec
    def scoresde_on_checkpoint(self, path: Any, state: Any) -> None:
        """After a checkpoint was written to ``path``."""

    @hookspec
    def scoresde_on_result(self, row: dict[str, Any]) -> None:
        """Before a result row is written; the row may be amended."""


def add_hooks(manager: pluggy.PluginManager) -> None:
    """Add the lifecycle hooks and those of every kind in the table, including kinds that other packages declare."""
    if not hasattr(manager.hook, "scoresde_on_result"):
        manager.add_hookspecs(Lifecycle)
    missing = [name for name in (f"{PREFIX}register_{kind}" for kind in KINDS) if not hasattr(manager.hook, name)]
    if missing:
        manager.add_hookspecs(type("Registration", (), {n: hookspec(lambda self, register: None) for n in missing}))
