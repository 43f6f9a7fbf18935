"""Models: a configuration's network and SDE, planned, then built.

>>> plan = plan_model(registry.create("presets", "vp_cifar10_ddpmpp_continuous"), registry)
>>> model = plan.build(seed=0)
>>> model.units.decode(sample(model.score(), plan.sampler, n=16).x)
"""

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
from torch import nn
from scoresde_core import OURS, SDE, Loss, Registry, Sampler, Spec, UsageError, parameters, unserved
from ..data.batches import Preprocessing
from ..data.dataset import Dataset, Levels
from ..data.scale import standardising
from ..data.units import Units, columns, stored_levels
from .config import Config, ModelConfig
from .names import plugins_of
from .network import Network
from .network_score import NetworkScore
from .parameterisation import LABEL_FORMS, PARAMETERISATION_FORMS, PARAMETERISATIONS

_SHARED = ("sigma_min", "sigma_max")
"""Parameters of an SDE that networks with a table of noise scales also have; they are stated in the SDE."""


@attrs.frozen(eq=False)
class Plan:
    """A configuration's components, checked; nothing large is built yet."""

    config: Config
    network: Network
    sde: SDE
    sampler: Sampler
    units: Units = attrs.field(default=attrs.Factory(lambda self: recorded_units(self.config.model), takes_self=True))
    """Units of the events."""
    plugins: Mapping[str, str] = attrs.field(factory=dict)
    """The plugins that its network and process are of (:func:`.names.plugins_of`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.config.model.shape

    def build(self, seed: int = 0) -> "Model":
        """Build the model with random weights from ``seed``, in evaluation mode, on the current ``torch.device``."""
        with torch.random.fork_rng(devices=[]):
            try:
                torch.manual_seed(seed)
                module = self.network.build(self.sde.state_shape(self.shape))
            except ValueError as error:
                raise UsageError(f"the network {self.config.model.network} cannot be built: {error}") from error
        return Model(self, module.eval())


@attrs.frozen(eq=False)
class Model:
    """A built network with its plan."""

    plan: Plan
    network: nn.Module

    @property
    def config(self) -> Config:
        """The configuration it was built from."""
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
        """Units of the events: ``units.decode(x)`` converts samples ``x`` to the numbers of the data."""
        return self.plan.units

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Model":
        """Move the network, in place, to ``device`` and ``dtype``; return this model."""
        self.network.to(device, dtype)
        return self

    def view(self, **how: Any) -> Any:
        """View the network as a score model with its own counter, or as a classifier (:meth:`Network.view`)."""
        how = {"free": self.config.training.known_dropout > 0, **how}
        return self.plan.network.view(self.network, self.sde, self.shape, **how)

    def score(self, cond: Mapping[str, Any] | None = None, autocast: torch.dtype | None = None) -> NetworkScore:
        """:meth:`view` of a network that gives scores, which :func:`plan_model` requires by default."""
        found: NetworkScore = self.view(cond=cond, autocast=autocast)
        return found


def plan_model(
    config: Config, registry: Registry, outputs: Collection[str] | None = PARAMETERISATIONS, *, read: bool = True
) -> Plan:
    """Create the components that ``config`` names. The network must give one of ``outputs``, unless that is None.

    It takes ``centered`` and the ends of its table of noise scales from the rest; other values are an error. If nothing
    states the grey levels, an event is read, unless ``read`` is false.
    """
    choice = config.model
    t_min = {} if config.sampling.t_min is None else {"t_min": config.sampling.t_min}
    sde = registry.create("sdes", attrs.evolve(choice.sde, params={**choice.sde.params, **t_min}))
    shared = {name: getattr(sde, name) for name in _SHARED if name in {p.name for p in parameters(type(sde))}}
    shared["centered"] = choice.centered
    network = registry.create("networks", choice.network, **shared)
    for name, value in shared.items():
        if (own := getattr(network, name, value)) != value:
            both = f"has {name}={own} but the rest of the model has {name}={value}"
            raise UsageError(f"the network {choice.network.name!r} {both}: leave it out of the network")
    if outputs is not None and network.parameterisation not in outputs:
        wrong = "no score" if network.parameterisation not in PARAMETERISATIONS else "a score"
        what = f"the network {choice.network.name!r} gives {network.parameterisation}, which is {wrong}"
        raise UsageError(f"{what}: choose one that gives {', '.join(outputs)}")
    meaning = PARAMETERISATIONS.get(network.parameterisation)
    if meaning and meaning.denoised is None and sde.t_signal < sde.t_max:
        what = f"the network {choice.network.name!r} gives {meaning.name}, which says nothing of the data at the start"
        remedy = "set model.network.parameterisation=flow, v, denoised or edm"
        raise UsageError(f"{what} of {choice.sde}, where there is no signal: {remedy}")
    _check_form(network, sde, choice)
    units = recorded_units(choice, _levels(config, registry, read))
    sampler = registry.create("samplers", config.sampling.sampler)
    return Plan(config, network, sde, sampler, units, plugins_of(registry, choice))


def _check_form(network: Network, sde: SDE, choice: ModelConfig) -> None:
    """Refuse a label or parameterisation that has no meaning for the coefficients of the process."""
    for field, table in (("label", LABEL_FORMS), ("parameterisation", PARAMETERISATION_FORMS)):
        value = getattr(network, field)
        forms = table.get(value, ("scalar",))
        if sde.form not in forms:
            usable = ", ".join(name for name, each in table.items() if sde.form in each)
            given = f"the network's {field} {value} is for processes of the form {' or '.join(forms)}"
            remedy = f"set model.network.{field} to one of {usable}"
            raise UsageError(f"{given}, {choice.sde} has the form {sde.form}: {remedy}")


def recorded_units(model: ModelConfig, levels: Levels = "auto") -> Units:
    """The units that training recorded. Unrecorded grey levels are ``levels``; if these are unknown too, events
    (C, H, W) of 1, 3 or 4 channels are 8-bit images, and others are floats.
    """
    known = levels if model.levels == "auto" else model.levels
    if known == "auto":
        known = 256 if len(model.shape) == 3 and model.shape[0] in (1, 3, 4) else None
    try:
        units = Units(model.centered, levels=known, shift=model.shift, scale=model.scale)
    except ValueError as error:
        raise UsageError(f"the model's units are invalid: {error.args[0]}") from error
    if reason := units.skip(model.shape):
        raise UsageError(f"the model's {reason}")
    return units


def _levels(config: Config, registry: Registry, read: bool) -> Levels:
    """The grey levels that ``config`` records, else those of its data set, if that is available."""
    if config.model.levels != "auto" or config.data.dataset is None:
        return config.model.levels
    try:
        dataset: Dataset = registry.create("datasets", config.data.dataset)
        return found_levels(dataset) if read else dataset.levels
    except Exception:  # a missing plugin or file; a plugin's data set may raise anything
        return "auto"


def found_levels(dataset: Dataset) -> int | None:
    """The grey levels that a data set declares, else those of the type of its first event."""
    levels = dataset.levels
    return stored_levels(dataset.open("train")[0]) if levels == "auto" else levels


def plan_loss(plan: Plan, registry: Registry) -> Loss:
    """Create the loss, checked against network and SDE; it has the network's number of scales unless it states one."""
    network = plan.network
    loss: Loss = registry.create("losses", plan.config.training.loss, scales=network.scales)
    model = network.view(nn.Identity(), plan.sde, plan.shape)
    if not isinstance(model, loss.trains):
        given = f"the network {plan.config.model.network.name!r} gives {network.parameterisation}"
        trains = f"the loss {plan.config.training.loss} trains a {loss.trains.__name__}"
        raise UsageError(f"{trains}, but {given}: change the loss or the network")
    if reason := unserved(loss, plan.sde) or plan.sde.fault() or loss.skip(model):
        raise UsageError(reason)
    return loss


def plan_data(plan: Plan, registry: Registry, download: bool = False) -> tuple[Dataset, Preprocessing]:
    """The data set with events of the model's shape, and its preprocessing; only ``download`` loads what is missing."""
    if (spec := plan.config.data.dataset) is None:
        raise UsageError("the configuration names no data set: set data.dataset, such as data.dataset=cifar10")
    return find_dataset(spec, plan.shape, registry, download), preprocessing(plan)


def preprocessing(plan: Plan) -> Preprocessing:
    """The preprocessing of events in training."""
    units = attrs.asdict(plan.units, recurse=False)
    return Preprocessing(**units, flip=plan.config.data.random_flip and len(plan.shape) == 3)


def record_units(plan: Plan, dataset: Dataset) -> Plan:
    """Record the units of ``dataset`` in the plan's configuration, unless they are recorded already."""
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
    """The data set ``spec`` with events of ``shape``: by its own ``size``, or resized if proportions stay."""
    dataset: Dataset = registry.create("datasets", spec, download=download, **_size(spec, shape, registry))
    found = dataset.shape
    images = len(found) == len(shape) == 3 and found[0] == shape[0]
    if images and found != shape and (shape[1] == shape[2] or found[1] * shape[2] == found[2] * shape[1]):
        dataset = registry.create("datasets", Spec(f"{OURS}:resized", {"data": dataset, "size": list(shape[1:])}))
    if dataset.shape != shape:
        words = f"the data set {spec} has events of shape {found}, the model {shape}: set model.shape"
        if images:
            words += f"=[{','.join(map(str, found))}], or data.dataset='resized[data={spec},size={list(shape[1:])}]'"
        raise UsageError(f"{words}, or choose another data set")
    return dataset


def _size(spec: Spec, shape: tuple[int, ...], registry: Registry) -> dict[str, Any]:
    """The parameter ``size`` that gives images of ``shape``, if the data set can take it."""
    if len(shape) != 3:
        return {}
    if shape[1] == shape[2]:
        return {"size": shape[1]}
    takes = {p.name: p.takes_list for p in parameters(registry.load("datasets", spec.name))}
    return {"size": list(shape[1:])} if takes.get("size") else {}
