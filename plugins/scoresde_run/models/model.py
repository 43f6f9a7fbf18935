"""A learned model: a configuration's network, built, with the SDE that gives its output a meaning.

>>> plan = plan_model(registry.create("presets", "vp_cifar10_ddpmpp_continuous"), registry)
>>> model = plan.build(seed=0)
>>> model.units.decode(sample(model.score(), model.sde, plan.sampler, model.shape, n=16).x)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from scoresde_core.components import Spec, parameters
from scoresde_core.dataset import Dataset, Levels
from scoresde_core.errors import UsageError
from scoresde_core.loss import Loss
from scoresde_core.network import Network
from scoresde_core.registry import OURS, Registry
from scoresde_core.sampler import Sampler
from scoresde_core.score import PARAMETERISATIONS, NetworkScore
from scoresde_core.sde import SDE
from scoresde_core.units import Units, columns, stored_levels

from ..data.batches import Preprocessing
from ..data.scale import standardising
from .config import Config, ModelConfig

_SHARED = ("sigma_min", "sigma_max")
"""Parameters of an SDE that a network with a table of noise scales has as well: said once, in the SDE."""


@attrs.frozen(eq=False)
class Plan:
    """A configuration's components, checked, before anything large is built."""

    config: Config
    network: Network
    sde: SDE
    sampler: Sampler
    units: Units = attrs.field(default=attrs.Factory(lambda self: recorded_units(self.config.model), takes_self=True))
    """What the numbers of its events are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.config.model.shape

    def build(self, seed: int = 0) -> Model:
        """The model with random weights, in evaluation mode; ``seed`` fixes them. It obeys ``torch.device(...)``."""
        with torch.random.fork_rng(devices=[]):
            try:
                torch.manual_seed(seed)
                module = self.network.build(self.shape)
            except ValueError as error:
                raise UsageError(f"the network {self.config.model.network} cannot be built: {error}") from error
        return Model(self, module.eval())


@attrs.frozen(eq=False)
class Model:
    """A built network; its weights are whatever was loaded into ``network``."""

    plan: Plan
    network: nn.Module

    @property
    def config(self) -> Config:
        """What it was built from."""
        return self.plan.config

    @property
    def sde(self) -> SDE:
        """The forward process."""
        return self.plan.sde

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.plan.shape

    @property
    def units(self) -> Units:
        """What the numbers of its events are: ``units.decode(x)`` gives samples ``x`` in those of the data."""
        return self.plan.units

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Model:
        """This model with its network moved, in place, to ``device`` and ``dtype``."""
        self.network.to(device, dtype)
        return self

    def view(self, **how: Any) -> Any:
        """The network as what it is (:meth:`Network.view`): a score model with its own count, or a classifier."""
        return self.plan.network.view(self.network, self.sde, **how)

    def score(self, cond: Mapping[str, Any] | None = None, autocast: torch.dtype | None = None) -> NetworkScore:
        """:meth:`view` of a plan whose network gives scores, as :func:`plan_model` makes them unless told otherwise."""
        found: NetworkScore = self.view(cond=cond, autocast=autocast)
        return found


def plan_model(
    config: Config,
    registry: Registry,
    outputs: Collection[str] | None = tuple(PARAMETERISATIONS),
    *,
    read: bool = True,
) -> Plan:
    """The components that ``config`` names; its network has to give one of ``outputs``, a score, unless that is None.

    The network takes from the rest what it would otherwise repeat: ``centered``, and the ends of its table of noise
    scales. A network that says otherwise is an error. Where neither ``config`` nor its data set says what the numbers
    of events are, an event is read, unless ``read`` is false.
    """
    choice = config.model
    given = {} if config.sampling.t_min is None else {"t_min": config.sampling.t_min}
    spec = choice.sde if not given else attrs.evolve(choice.sde, params={**choice.sde.params, **given})
    sde = registry.create("sdes", spec)
    shared = {name: getattr(sde, name) for name in _SHARED if name in {p.name for p in parameters(type(sde))}}
    shared["centered"] = choice.centered
    network = registry.create("networks", choice.network, **shared)
    for name, value in shared.items():
        own = getattr(network, name, value)
        if own != value:
            raise UsageError(
                f"the network {choice.network.name!r} has {name}={own} and the rest of the model {name}={value}: "
                f"leave it out of the network"
            )
    if outputs is not None and network.parameterisation not in outputs:
        wrong = "no score" if network.parameterisation not in PARAMETERISATIONS else "a score"
        raise UsageError(
            f"the network {choice.network.name!r} gives {network.parameterisation}, which is {wrong}: "
            f"choose one that gives {', '.join(outputs)}"
        )
    units = recorded_units(choice, _levels(config, registry, read))
    return Plan(config, network, sde, registry.create("samplers", config.sampling.sampler), units)


def recorded_units(model: ModelConfig, levels: Levels = "auto") -> Units:
    """What training recorded of the data. Where it did not, ``levels`` stand for the grey levels; where these are not
    known either, events (C, H, W) of 1, 3 or 4 channels are 8-bit images and others are floats.
    """
    known = levels if model.levels == "auto" else model.levels
    if known == "auto":
        known = 256 if len(model.shape) == 3 and model.shape[0] in (1, 3, 4) else None
    try:
        units = Units(model.centered, levels=known, shift=model.shift, scale=model.scale)
    except ValueError as error:
        raise UsageError(f"the model's numbers have no such units: {error.args[0]}") from error
    reason = units.skip(model.shape)
    if reason:
        raise UsageError(f"the model's {reason}")
    return units


def _levels(config: Config, registry: Registry, read: bool) -> Levels:
    """Those that ``config`` records, else those of its data set, where that is here."""
    if config.model.levels != "auto" or config.data.dataset is None:
        return config.model.levels
    try:
        dataset: Dataset = registry.create("datasets", config.data.dataset)
        return found_levels(dataset) if read else dataset.levels
    except Exception:  # a plugin or a file that is not here; a data set of a plugin may raise anything
        return "auto"


def found_levels(dataset: Dataset) -> int | None:
    """The levels that a data set declares, else those that the type of its first event means."""
    levels = dataset.levels
    return stored_levels(dataset.open("train")[0]) if levels == "auto" else levels


def plan_loss(plan: Plan, registry: Registry) -> Loss:
    """The loss that ``plan.config.training`` asks for, checked against the network and the SDE.

    A discrete loss has the network's number of noise scales unless it says otherwise.
    """
    network = plan.network
    loss: Loss = registry.create("losses", plan.config.training.loss, scales=network.scales)
    model = network.view(nn.Identity(), plan.sde)
    if not isinstance(model, loss.trains):
        raise UsageError(
            f"the loss {plan.config.training.loss} trains a {loss.trains.__name__}, the network "
            f"{plan.config.model.network.name!r} gives {network.parameterisation}: choose another of the two"
        )
    reason = loss.skip(model, plan.sde)
    if reason:
        raise UsageError(reason)
    return loss


def plan_data(plan: Plan, registry: Registry, download: bool = False) -> tuple[Dataset, Preprocessing]:
    """The data set that ``plan.config.data`` names, with images of the model's size, and what the model sees of them.

    A data set that has a ``size`` gets the model's; any other is resized. Nothing is downloaded unasked.
    """
    config, shape = plan.config, plan.shape
    if config.data.dataset is None:
        raise UsageError("the configuration names no data set: set data.dataset, such as data.dataset=cifar10")
    dataset = find_dataset(config.data.dataset, shape, registry, download)
    return dataset, preprocessing(plan)


def preprocessing(plan: Plan) -> Preprocessing:
    """What the model of ``plan`` sees of events in training."""
    units = attrs.asdict(plan.units, recurse=False)
    return Preprocessing(**units, flip=plan.config.data.random_flip and len(plan.shape) == 3)


def record_units(plan: Plan, dataset: Dataset) -> Plan:
    """``plan`` with what the numbers of its data are, in its configuration: found out, unless it is recorded there."""
    config = plan.config
    if config.model.levels != "auto":
        return plan
    levels, data = found_levels(dataset), config.data
    found: dict[str, Any] = {"levels": levels, "shift": columns(data.shift, 0.0), "scale": columns(data.scale, 1.0)}
    if data.standardise:
        found["shift"], found["scale"] = standardising(dataset, Units(config.model.centered, levels=levels))
    config = attrs.evolve(config, model=attrs.evolve(config.model, **found))
    return attrs.evolve(plan, config=config, units=recorded_units(config.model))


def find_dataset(spec: Spec, shape: tuple[int, ...], registry: Registry, download: bool = False) -> Dataset:
    """The data set ``spec`` with events of ``shape``: one that has a ``size`` gets it, any other is resized.

    One that is not square is resized only where it keeps its proportions.
    """
    side = _size(spec, shape, registry)
    dataset: Dataset = registry.create("datasets", spec, download=download, **side)
    found = dataset.shape
    images = len(found) == len(shape) == 3 and found[0] == shape[0]
    square = len(shape) == 3 and shape[1] == shape[2]
    if images and found != shape and (square or found[1] * shape[2] == found[2] * shape[1]):
        dataset = registry.create("datasets", Spec(f"{OURS}:resized", {"data": dataset, "size": list(shape[1:])}))
    if dataset.shape != shape:
        words = f"the data set {spec} has events of shape {found}, the model {shape}: set model.shape"
        if images:
            words += f"=[{','.join(map(str, found))}], or data.dataset='resized[data={spec},size={list(shape[1:])}]'"
        raise UsageError(f"{words}, or choose another data set")
    return dataset


def _size(spec: Spec, shape: tuple[int, ...], registry: Registry) -> dict[str, Any]:
    """The parameter that brings the images of ``spec`` to ``shape``, where it has one that can."""
    if len(shape) != 3:
        return {}
    if shape[1] == shape[2]:
        return {"size": shape[1]}
    takes = {p.name: p.takes_list for p in parameters(registry.load("datasets", spec.name))}
    return {"size": list(shape[1:])} if takes.get("size") else {}
