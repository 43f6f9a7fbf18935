"""Sources of the score that a cell samples with.

exact        a target's closed-form score under an SDE: all error is the sampler's
checkpoint   a learned score under its own SDE, compared with a target if one is given
preset       a network with random weights, as fast as a trained one; its samples are meaningless
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
from scoresde_core.score import ExactScore, ScoreModel
from scoresde_core.sde import SDE
from scoresde_core.target import Target
from scoresde_run.commands.presets import find_preset
from scoresde_run.data.units import Units
from scoresde_run.machine.device import PRECISIONS
from scoresde_run.models import checkpoint
from scoresde_run.models.model import Plan, plan_model

WEIGHTS_SEED = 0


class ScoreSource(ABC):
    """A score, its SDE, its names as shown, and everything that its results depend on."""

    has_network: ClassVar[bool]
    """Whether the score is a network, which can be compiled or run in lower precision."""
    sde: SDE
    target: Target | None
    """The exact distribution that samples are compared with, or None."""

    @property
    @abstractmethod
    def names(self) -> dict[str, str | None]:
        """Its axes, by the keys of a result row."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The components and plain data that it consists of."""

    @property
    @abstractmethod
    def sde_name(self) -> str:
        """Name of the SDE, without parameters."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        """Return the score model on ``device``, its network in ``precision``.

        Unless ``compile`` is ``none``, the network compiles at the first call.
        """

    @property
    @abstractmethod
    def units(self) -> Units:
        """Units of its samples; targets and pictures are in data units."""


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

    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        return ExactScore(self.target.to(device, dtype), self.sde)


@attrs.frozen(eq=False)
class Learned(ScoreSource):
    """A network under its own SDE, with the weights of ``stored``, or random ones without it."""

    has_network: ClassVar[bool] = True

    network: str
    plan: Plan
    registry: Registry
    stored: checkpoint.Checkpoint | None = None
    target_spec: Spec | None = None
    target: Target | None = None

    @property
    def sde(self) -> SDE:  # type: ignore[override]
        """The process of the model."""
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

    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        model = self.plan.build(WEIGHTS_SEED) if self.stored is None else self.stored.load(self.registry)
        model.to(device, dtype)
        if compile != "none":
            model.network.compile(mode=compile, dynamic=False)
        return model.score(autocast=PRECISIONS[precision])


def exact_sources(registry: Registry, targets: Sequence[Spec], sdes: Sequence[Spec]) -> list[ScoreSource]:
    """Return every target under every SDE."""
    built = [(spec, registry.create("sdes", spec)) for spec in sdes]
    return [
        Exact(target, sde, truth, process)
        for target, truth in [(spec, registry.create("targets", spec)) for spec in targets]
        for sde, process in built
    ]


def learned_sources(
    registry: Registry, checkpoints: Sequence[str], presets: Sequence[str], targets: Sequence[Spec]
) -> list[ScoreSource]:
    """Return every checkpoint with every target (or with none), and every preset.

    Reads no weights, so that missing parts are reported at once.
    """
    if targets and not checkpoints:
        raise UsageError("--target has no effect on random weights; remove --target")
    found: list[ScoreSource] = []
    truths: list[Spec | None] = [*targets] or [None]
    for name in checkpoints:
        stored = checkpoint.find(name, registry)
        plan = plan_model(stored.config, registry)
        for spec in truths:
            target = None if spec is None else registry.create("targets", spec)
            if target is not None and target.shape != plan.shape:
                raise UsageError(
                    f"checkpoint {name} samples events of shape {list(plan.shape)}, "
                    f"but target {spec} has shape {list(target.shape)}"
                )
            found.append(Learned(stored.config.model.network.name, plan, registry, stored, spec, target))
    return found + [Learned(name, plan_model(find_preset(registry, name), registry), registry) for name in presets]
