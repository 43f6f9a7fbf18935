"""Sources of the score that a cell samples with.

exact        a target's closed-form score under an SDE: all error is the sampler's
checkpoint   a learned score under its own SDE, compared with a target if one is given
network      a network that brings its weights, under an SDE of the axis
preset       a network with random weights, as fast as a trained one; its samples are meaningless
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, Self

import attrs
import torch
from torch import nn
from scoresde_core import SDE, ExactScore, Registry, ScoreModel, Spec, Target, UsageError, parse_value
from scoresde_run import Config, Model, Units, plan_model
from scoresde_run.commands.presets import find_preset, is_own, own_config
from scoresde_run.machine.device import PRECISIONS
from scoresde_run.models import checkpoint
from scoresde_run.models.known import check

WEIGHTS_SEED = 0
Load = Callable[[torch.device, torch.dtype, str, str], ScoreModel]
"""Returns a score model on a device, its network compiled in this mode unless it is ``none``, and in this precision."""


@attrs.frozen(eq=False)
class ScoreSource:
    """A score, its SDE, its names as shown, and everything that its results depend on."""

    names: dict[str, str | None]  # its axes, by the keys of a result row
    sde: SDE
    shape: tuple[int, ...]  # shape of one event
    units: Units  # units of its samples; targets and pictures are in data units
    target: Target | None  # the exact distribution of the score or of the data, or None
    unloaded: Callable[[], ScoreModel]  # returns the score model without its weights
    loaded: Load  # loads the score model; a network compiles at its first call
    made_of: Callable[[], dict[str, Any]] = dict  # what the score consists of besides target and SDE
    has_network: bool = attrs.field(default=True, kw_only=True)
    """Whether the score is a network, which can be compiled or run in lower precision."""
    chooses_sde: bool = attrs.field(default=True, kw_only=True)
    """Whether the SDE is a value of its axis, not the model's own."""
    known: Mapping[str, int] = attrs.field(factory=dict, kw_only=True)  # what is known of all samples

    @property
    def parameters(self) -> dict[str, Any]:
        """The components and plain data that it consists of."""
        known = {"known": dict(self.known)} if self.known else {}
        return {"target": self.target, "sde": self.sde, **known, **self.made_of()}

    @property
    def truth(self) -> Target | None:
        """The exact distribution that samples are compared with: under a known class that of its component."""
        if self.target is None or "class" not in self.known:
            return self.target
        return self.target.component(self.known["class"])

    @property
    def view(self) -> ScoreModel:
        """The score model without its weights, with what is known, for plans."""
        return self._told(self.unloaded())

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

    def load(self, device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        """Return the score model on ``device``, its network in ``precision``, with what is known."""
        return self._told(self.loaded(device, dtype, compile, precision), device)


def in_memory(model: ScoreModel, names: dict[str, str | None], exact: Target | None) -> ScoreSource:
    """The source of a caller's ``model``; what it answers to some noise at three times identifies it."""
    sde, asked = model.sde, model.informed(4, 0, 0).framed()
    x = sde.prior.from_noise(torch.randn(4, *asked.shape, generator=torch.Generator().manual_seed(0)))
    times = [sde.t_signal, 0.5 * sde.t_signal, sde.t_min]
    x = x.to(next((p for p in getattr(model, "network", nn.Identity()).parameters()), x))
    with torch.no_grad():
        answers = torch.stack([asked.score(x, sde.level_at(t, x)).cpu() for t in times])
    given = (names, sde, model.shape, Units(levels=None), exact)
    return ScoreSource(*given, lambda: model, lambda *_: model, lambda: {"answers": answers})


def exact_sources(registry: Registry, targets: Sequence[Spec], sdes: Sequence[Spec]) -> list[ScoreSource]:
    """Return every target under every SDE."""

    def exact(target: Target, sde: SDE, names: dict[str, str | None]) -> ScoreSource:
        def load(device: torch.device, dtype: torch.dtype, *_: str) -> ScoreModel:
            return ExactScore(target.to(device, dtype), sde)

        given = (names, sde, target.shape, Units(levels=256 if target.images else None), target)
        return ScoreSource(*given, lambda: ExactScore(target, sde), load, has_network=False)

    built = {str(spec): registry.create("sdes", spec) for spec in sdes}
    truths = {str(spec): registry.create("targets", spec) for spec in targets}
    return [exact(truths[of], built[by], {"target": of, "sde": by}) for of, by in product(truths, built)]


def _learned(
    registry: Registry, network: str, config: Config, stored: checkpoint.Checkpoint | None, spec: Spec | None
) -> ScoreSource:
    """A network under its own SDE, with the weights of ``stored``, or random ones without it."""
    plan, target = plan_model(config, registry), None if spec is None else registry.create("targets", spec)
    if target is not None and target.shape != plan.shape:
        whose = network if stored is None else f"checkpoint {stored.name}"
        shapes = f"{list(plan.shape)}, but target {spec} has shape {list(target.shape)}"
        raise UsageError(f"{whose} samples events of shape {shapes}")
    names = {"target": None if spec is None else str(spec), "checkpoint": None if stored is None else stored.name}
    names |= {"network": network, "sde": str(plan.config.model.sde)}
    own = plan.network.fixed_shape

    def load(device: torch.device, dtype: torch.dtype, compile: str, precision: str) -> ScoreModel:
        model = plan.build(WEIGHTS_SEED) if stored is None else stored.load(registry)
        model.to(device, dtype)
        if compile != "none":
            model.network.compile(mode=compile, dynamic=False)
        return model.score(autocast=PRECISIONS[precision])

    def made_of() -> dict[str, Any]:
        weights, ema = "its own" if own else f"random, seed {WEIGHTS_SEED}", None
        if stored is not None:
            weights, ema = stored.digest(), stored.uses_ema()
        found = {"network": plan.network, "model": attrs.asdict(plan.config.model), "units": attrs.asdict(plan.units)}
        return {**found, "weights": weights, "ema": ema}

    given = (names, plan.sde, plan.shape, plan.units, target, lambda: Model(plan, nn.Identity()).score(), load, made_of)
    return ScoreSource(*given, chooses_sde=stored is None and own is not None)


def learned_sources(
    registry: Registry, checkpoints: Sequence[str], networks: Sequence[str], targets: Sequence[Spec],
    sdes: Sequence[str],
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
    truths: list[Spec | None] = [*targets] or [None]
    found = [checkpoint.find(name, registry) for name in checkpoints]
    return [
        *(_learned(registry, one.config.model.network.name, one.config, one, spec) for one in found for spec in truths),
        *(_learned(registry, str(config.model.network), config, None, spec) for config in own for spec in truths),
        *(_learned(registry, name, find_preset(registry, name), None, None) for name in presets),
    ]


def told(source: ScoreSource, known: Sequence[str]) -> list[ScoreSource]:
    """``source`` with each of ``known``, where ``class=[0,3]`` stands for two; itself if nothing is."""
    texts = []
    for text in known:
        name, _, value = text.partition("=")
        values = parse_value(value) if value.startswith("[") else None
        texts += [f"{name}={one}" for one in values] if isinstance(values, list) else [text]
    return [source.given(text) for text in dict.fromkeys(texts)] or [source]
