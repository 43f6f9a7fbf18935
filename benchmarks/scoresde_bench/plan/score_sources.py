"""Score sources: what a cell samples from.

exact        a target's own score under an SDE: all error is the sampler's
checkpoint   a learned score under its own SDE, judged against a target where one is given
preset       a network with random weights: its speed is that of the trained one, its samples mean nothing
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch

from scoresde_core.components import Spec
from scoresde_core.errors import UsageError
from scoresde_core.registry import Registry
from scoresde_core.score import PRECISIONS, ExactScore, ScoreModel
from scoresde_core.sde import SDE
from scoresde_core.target import Target
from scoresde_core.units import Units
from scoresde_run.commands.presets import find_preset
from scoresde_run.models import checkpoint
from scoresde_run.models.model import Plan, plan_model

WEIGHTS_SEED = 0


class ScoreSource(ABC):
    """Something with a score: its names as they are shown, and all that its numbers depend on."""

    has_network: ClassVar[bool]
    """Whether there is something to compile."""
    sde: SDE
    target: Target | None
    """The truth that its samples are judged by, or None."""

    @property
    @abstractmethod
    def names(self) -> dict[str, str | None]:
        """Its axes, by the names of a result row."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Components and plain data that make it up."""

    @property
    @abstractmethod
    def sde_name(self) -> str:
        """The name of its SDE, without parameters."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @abstractmethod
    def load(
        self, device: torch.device, dtype: torch.dtype, compile: str = "none", precision: str = "float32"
    ) -> ScoreModel:
        """Its score model, ready to be called, its network in ``precision``.

        The network compiles at the first call, unless the mode is none.
        """

    @property
    @abstractmethod
    def units(self) -> Units:
        """What the numbers of its samples are; targets and pictures live in those of the data."""


@attrs.frozen(eq=False)
class Exact(ScoreSource):
    """A target with its closed-form score."""

    has_network: ClassVar[bool] = False

    target_spec: Spec
    sde_spec: Spec
    target: Target
    sde: SDE

    @property
    def names(self) -> dict[str, str | None]:
        return {"target": str(self.target_spec), "sde": str(self.sde_spec)}

    @property
    def parameters(self) -> dict[str, Any]:
        return {"target": self.target, "sde": self.sde}

    @property
    def sde_name(self) -> str:
        return self.sde_spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    @property
    def units(self) -> Units:
        return Units(levels=256 if self.target.images else None)

    def load(
        self, device: torch.device, dtype: torch.dtype, compile: str = "none", precision: str = "float32"
    ) -> ScoreModel:
        return ExactScore(self.target.to(device, dtype))


@attrs.frozen(eq=False)
class Learned(ScoreSource):
    """A network under its own SDE: ``stored`` holds its weights, and without it they are random."""

    has_network: ClassVar[bool] = True

    network: str
    plan: Plan
    registry: Registry
    stored: checkpoint.Checkpoint | None = None
    target_spec: Spec | None = None
    target: Target | None = None

    @property
    def sde(self) -> SDE:  # type: ignore[override]
        return self.plan.sde

    @property
    def names(self) -> dict[str, str | None]:
        return {
            "target": None if self.target_spec is None else str(self.target_spec),
            "checkpoint": None if self.stored is None else self.stored.name,
            "network": self.network,
            "sde": str(self.plan.config.model.sde),
        }

    @property
    def parameters(self) -> dict[str, Any]:
        weights = f"random, seed {WEIGHTS_SEED}" if self.stored is None else self.stored.digest()
        parts = {"target": self.target, "sde": self.sde, "network": self.plan.network}
        ema = None if self.stored is None else self.stored.uses_ema()
        model = {"model": attrs.asdict(self.plan.config.model), "units": attrs.asdict(self.units)}
        return {**parts, **model, "weights": weights, "ema": ema}

    @property
    def sde_name(self) -> str:
        return self.plan.config.model.sde.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.plan.shape

    @property
    def units(self) -> Units:
        return self.plan.units

    def load(
        self, device: torch.device, dtype: torch.dtype, compile: str = "none", precision: str = "float32"
    ) -> ScoreModel:
        model = self.plan.build(WEIGHTS_SEED) if self.stored is None else self.stored.load(self.registry)
        model.to(device, dtype)
        if compile != "none":
            model.network.compile(mode=compile, dynamic=False)
        return model.score(autocast=PRECISIONS[precision])


def exact_sources(registry: Registry, targets: Sequence[Spec], sdes: Sequence[Spec]) -> list[ScoreSource]:
    """Every target under every SDE."""
    built = [(spec, registry.create("sdes", spec)) for spec in sdes]
    return [
        Exact(target, sde, truth, process)
        for target, truth in [(spec, registry.create("targets", spec)) for spec in targets]
        for sde, process in built
    ]


def learned_sources(
    registry: Registry, checkpoints: Sequence[str], presets: Sequence[str], targets: Sequence[Spec]
) -> list[ScoreSource]:
    """Every checkpoint against every target (or against none), and every preset.

    Opens no weights, so that a sweep is refused at once where something is missing.
    """
    if targets and not checkpoints:
        raise UsageError("--target has no effect: random weights are compared with nothing; leave it out")
    found: list[ScoreSource] = []
    truths: list[Spec | None] = [*targets] or [None]
    for name in checkpoints:
        stored = checkpoint.find(name, registry)
        plan = plan_model(stored.config, registry)
        for spec in truths:
            target = None if spec is None else registry.create("targets", spec)
            if target is not None and target.shape != plan.shape:
                raise UsageError(
                    f"the checkpoint {name} makes events of shape {list(plan.shape)}, "
                    f"the target {spec} has {list(target.shape)}"
                )
            found.append(Learned(stored.config.model.network.name, plan, registry, stored, spec, target))
    return found + [Learned(name, plan_model(find_preset(registry, name), registry), registry) for name in presets]
