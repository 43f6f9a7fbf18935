"""Sources of the score that a cell samples with.

exact        a target's closed-form score under an SDE: all error is the sampler's
checkpoint   a learned score under its own SDE, compared with a target if one is given
network      a network that brings its weights, under an SDE of the axis
preset       a network with random weights, as fast as a trained one; its samples are meaningless
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import attrs
import torch
from torch import Tensor, nn
from scoresde_core import SDE, ExactScore, Registry, ScoreModel, Spec, Target, UsageError, parse_value
from scoresde_run import Model, Plan, Units, plan_model
from scoresde_run.commands.presets import find_preset, is_own, own_config
from scoresde_run.machine.device import PRECISIONS
from scoresde_run.models import checkpoint
from scoresde_run.models.known import check

WEIGHTS_SEED = 0


@attrs.frozen(eq=False)
class ScoreSource(ABC):
    """A score, its SDE, its names as shown, and everything that its results depend on."""

    has_network: ClassVar[bool]
    """Whether the score is a network, which can be compiled or run in lower precision."""
    chooses_sde: bool = attrs.field(default=True, kw_only=True)
    """Whether the SDE is a value of its axis, not the model's own."""

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
        made = "its own" if self.plan.network.fixed_shape else f"random, seed {WEIGHTS_SEED}"
        weights = made if self.stored is None else self.stored.digest()
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


@attrs.frozen(eq=False)
class InMemory(ScoreSource):
    """A score model of the caller's, known by its answers."""

    has_network: ClassVar[bool] = True

    model: ScoreModel
    answers: Tensor

    @classmethod
    def of(cls, model: ScoreModel, names: dict[str, str | None], exact: Target | None) -> Self:
        """The source of ``model``; what it answers to some noise at three times identifies it."""
        sde, asked = model.sde, model.informed(4, 0, 0).framed()
        x = sde.prior.from_noise(torch.randn(4, *asked.shape, generator=torch.Generator().manual_seed(0)))
        times = [sde.t_signal, 0.5 * sde.t_signal, sde.t_min]
        x = x.to(next((p for p in getattr(model, "network", nn.Identity()).parameters()), x))
        with torch.no_grad():
            answers = torch.stack([asked.score(x, sde.level_at(t, x)).cpu() for t in times])
        return cls(names, sde, model.shape, Units(levels=None), exact, model, answers)

    @property
    def parameters(self) -> dict[str, Any]:
        return {**super().parameters, "answers": self.answers}

    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        return self.model

    @property
    def view(self) -> ScoreModel:
        return self.model


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
    registry: Registry, checkpoints: Sequence[str], networks: Sequence[str], targets: Sequence[Spec],
    sdes: Sequence[str] = (),
) -> list[ScoreSource]:  # fmt: skip
    """Return every checkpoint with every target (or with none), every network that brings its weights so under every
    one of ``sdes`` (none: under its own), and every preset.

    Reads no weights, so that missing parts are reported at once.
    """
    choices: Sequence[str | None] = sdes or [None]
    own = [own_config(registry, name, sde) for name in networks if is_own(registry, name) for sde in choices]
    presets = [name for name in networks if not is_own(registry, name)]
    if sdes and (checkpoints or presets):
        raise UsageError("--sde has no effect: a checkpoint or preset defines its own SDE; remove --sde")
    if targets and not (checkpoints or own):
        raise UsageError("--target has no effect on random weights; remove --target")

    def learned(network: str, plan: Plan, stored: checkpoint.Checkpoint | None, spec: Spec | None) -> ScoreSource:
        target: Target | None = None if spec is None else registry.create("targets", spec)
        if target is not None and target.shape != plan.shape:
            raise UsageError(
                f"{network if stored is None else f'checkpoint {stored.name}'} samples events of shape "
                f"{list(plan.shape)}, but target {spec} has shape {list(target.shape)}"
            )
        names = {
            "target": None if spec is None else str(spec),
            "checkpoint": None if stored is None else stored.name,
            "network": network,
            "sde": str(plan.config.model.sde),
        }
        free = stored is None and plan.network.fixed_shape is not None
        return Learned(names, plan.sde, plan.shape, plan.units, target, plan, registry, stored, chooses_sde=free)

    truths: list[Spec | None] = [*targets] or [None]
    found = [checkpoint.find(name, registry) for name in checkpoints]
    plans = [(stored, plan_model(stored.config, registry)) for stored in found]
    return [
        *(learned(s.config.model.network.name, plan, s, spec) for s, plan in plans for spec in truths),
        *(learned(str(each.model.network), plan_model(each, registry), None, spec) for each in own for spec in truths),
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
