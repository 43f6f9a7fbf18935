"""The hook specifications: one ``scoresde_register_<kind>`` for each kind, and the lifecycle.

A plugin implements any of them with :data:`hookimpl`; an implementation may take fewer arguments than its spec.

    from scoresde_core import hookimpl

    @hookimpl
    def scoresde_register_sdes(register):
        register("cosine_vp", "my_package.sdes:CosineVP", summary="cosine schedule", paper="arXiv:2102.09672")
"""

from typing import Any

import pluggy

from .kinds import KINDS

API = 1
"""Version of this interface. A plugin or manifest that asks for a newer one is incompatible, not broken."""

PREFIX = "scoresde_"
hookspec = pluggy.HookspecMarker("scoresde")
hookimpl = pluggy.HookimplMarker("scoresde")


class Lifecycle:
    """Called while something runs. An implementation that raises is reported once and ends the run."""

    @hookspec
    def scoresde_on_training_step(self, step: int, loss: Any, state: Any) -> None:
        """After optimiser step ``step``; ``loss`` is a 0-dim tensor on the device, ``state`` the training state."""

    @hookspec
    def scoresde_on_sampling_step(self, done: int, total: int, x: Any) -> None:
        """After step ``done`` of ``total`` (0: not known) of a sampler; ``x`` (B, ...) is the state, not a copy."""

    @hookspec
    def scoresde_on_checkpoint(self, path: Any, state: Any) -> None:
        """After a checkpoint was written to ``path``."""

    @hookspec
    def scoresde_on_result(self, row: dict[str, Any]) -> None:
        """Before a result row is written; the row may be amended."""


def _registration(kind: str) -> Any:
    def spec(self: Any, register: Any) -> None: ...

    spec.__name__ = spec.__qualname__ = f"{PREFIX}register_{kind}"
    spec.__doc__ = f"Register {kind}: ``register(name, target, *, summary, paper, aliases, requires)``."
    return hookspec(spec)


class Registration:
    """One hook a kind; ``target`` is a class, or a string ``"package.module:Class"`` resolved on first use."""


for _kind in KINDS:
    setattr(Registration, f"{PREFIX}register_{_kind}", _registration(_kind))
