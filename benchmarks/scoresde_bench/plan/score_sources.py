"""Sources of the score that a cell samples with.

exact        a target's closed-form score under an SDE: all error is the sampler's
checkpoint   a learned score under its own SDE, compared with a target if one is given
preset       a network with random weights, as fast as a trained one; its samples are meaningless
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import attrs
import torch
from torch import nn

from scoresde_core import SDE, ExactScore, Registry, ScoreModel, Spec, Target, UsageError, parse_value
from scoresde_run import Model, Plan, Units, plan_model
from scoresde_run.commands.presets import find_preset
from scoresde_run.machine.device import PRECISIONS
from scoresde_run.models import checkpoint
from scoresde_run.models.known import check

WEIGHTS_SEED = 0


@attrs.frozen(eq=False)
class ScoreSource(ABC):
    """A score, its SDE, its names as shown, and everything that its results depend on."""

    has_network: ClassVar[bool]
    """Whether the score is a network, which can be compiled or run in lower precision."""

    names: dict[str, str | None]
    """Its axes, by the keys of a result row."""
    sde: SDE
    shape: tuple[int, ...]
    """Shape of one event."""
    units: Units
    """Units of its samples; targets and pictures are in data units."""
    target: Target | None
    """The exact distribution of the score or of the data, or None."""
    known: Mapping[str, int] = attrs.field(factory=dict, kw_only=True)
    """What is known of all samples."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The components and plain data that it consists of."""
        return {"target": self.target, "sde": self.sde, **({"known": dict(self.known)} if self.known else {})}

    @property
    def truth(self) -> Target | None:
        """The exact distribution that samples are compared with: under a known class that of its component."""
        if self.target is None or "class" not in self.known:
            return self.target
        return self.target.component(self.known["class"])

    @property
    @abstractmethod
    def view(self) -> ScoreModel:
        """The score model without its weights, with what is known, for plans."""

    @property
    def lacks(self) -> str | None:
        """What the score model needs to know of its samples, or None."""
        try:
            self.view.informed(1, 0, 0)
        except UsageError as error:
            return str(error)
        return None

    def _told(self, model: ScoreModel, device: torch.device | str = "cpu") -> ScoreModel:
        """``model`` with what is known, one row for all samples."""
        return model.given(**{name: torch.tensor([value], device=device) for name, value in self.known.items()})

    def given(self, known: str) -> Self:
        """This source with ``known``, such as ``class=3``; a class that it has not is a :class:`UsageError`."""
        name, _, value = known.partition("=")
        found = parse_value(value) if value else None
        if isinstance(found, bool) or not isinstance(found, int):
            raise UsageError(f"--known must be NAME=INTEGER, such as class=3, got {known!r}")
        bound = attrs.evolve(self, names={**self.names, "known": known}, known={**self.known, name: found})
        check(bound.view, {name: torch.tensor([found])}, f"--known {known}")
        if self.has_network and self.target is not None:
            raise UsageError(f"--known {known} cannot be compared with all of {self.names['target']}: remove --target")
        return bound

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        """Return the score model on ``device``, its network in ``precision``.

        Unless ``compile`` is ``none``, the network compiles at the first call.
        """


@attrs.frozen(eq=False)
class Exact(ScoreSource):
    """A target with its closed-form score."""

    has_network: ClassVar[bool] = False

    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        assert self.target is not None
        return self._told(ExactScore(self.target.to(device, dtype), self.sde), device)

    @property
    def view(self) -> ScoreModel:
        assert self.target is not None
        return self._told(ExactScore(self.target, self.sde))


@attrs.frozen(eq=False)
class Learned(ScoreSource):
    """A network under its own SDE, with the weights of ``stored``, or random ones without it."""

    has_network: ClassVar[bool] = True

    plan: Plan
    registry: Registry
    stored: checkpoint.Checkpoint | None

    @property
    def parameters(self) -> dict[str, Any]:
        weights = f"random, seed {WEIGHTS_SEED}" if self.stored is None else self.stored.digest()
        ema = None if self.stored is None else self.stored.uses_ema()
        model = {"model": attrs.asdict(self.plan.config.model), "units": attrs.asdict(self.units)}
        return {**super().parameters, "network": self.plan.network, **model, "weights": weights, "ema": ema}

    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        model = self.plan.build(WEIGHTS_SEED) if self.stored is None else self.stored.load(self.registry)
        model.to(device, dtype)
        if compile != "none":
            model.network.compile(mode=compile, dynamic=False)
        return self._told(model.score(autocast=PRECISIONS[precision]), device)

    @property
    def view(self) -> ScoreModel:
        return self._told(Model(self.plan, nn.Identity()).score())


def exact_sources(registry: Registry, targets: Sequence[Spec], sdes: Sequence[Spec]) -> list[ScoreSource]:
    """Return every target under every SDE."""
    built = [(str(spec), registry.create("sdes", spec)) for spec in sdes]
    made = [(str(spec), registry.create("targets", spec)) for spec in targets]
    truths = [(name, target, 256 if target.images else None) for name, target in made]
    return [
        Exact({"target": name, "sde": process}, sde, target.shape, Units(levels=levels), target)
        for name, target, levels in truths
        for process, sde in built
    ]


def learned_sources(
    registry: Registry, checkpoints: Sequence[str], presets: Sequence[str], targets: Sequence[Spec]
) -> list[ScoreSource]:
    """Return every checkpoint with every target (or with none), and every preset.

    Reads no weights, so that missing parts are reported at once.
    """
    if targets and not checkpoints:
        raise UsageError("--target has no effect on random weights; remove --target")

    def learned(network: str, plan: Plan, stored: checkpoint.Checkpoint | None, spec: Spec | None) -> ScoreSource:
        target: Target | None = None if spec is None else registry.create("targets", spec)
        if stored is not None and target is not None and target.shape != plan.shape:
            raise UsageError(
                f"checkpoint {stored.name} samples events of shape {list(plan.shape)}, "
                f"but target {spec} has shape {list(target.shape)}"
            )
        names = {
            "target": None if spec is None else str(spec),
            "checkpoint": None if stored is None else stored.name,
            "network": network,
            "sde": str(plan.config.model.sde),
        }
        return Learned(names, plan.sde, plan.shape, plan.units, target, plan, registry, stored)

    truths: list[Spec | None] = [*targets] or [None]
    found = [checkpoint.find(name, registry) for name in checkpoints]
    plans = [(stored, plan_model(stored.config, registry)) for stored in found]
    return [
        *(learned(s.config.model.network.name, plan, s, spec) for s, plan in plans for spec in truths),
        *(learned(name, plan_model(find_preset(registry, name), registry), None, None) for name in presets),
    ]


def told(source: ScoreSource, known: Sequence[str]) -> list[ScoreSource]:
    """``source`` with each of ``known``, where ``class=[0,3]`` stands for two; itself if nothing is."""
    texts = []
    for text in known:
        name, _, value = text.partition("=")
        values = parse_value(value) if value.startswith("[") else None
        texts += [f"{name}={one}" for one in values] if isinstance(values, list) else [text]
    return [source.given(text) for text in dict.fromkeys(texts)] or [source]
