"""A learned model: a configuration's network, built, with the SDE that gives its output a meaning.

>>> plan = plan_model(registry.create("presets", "vp_cifar10_ddpmpp_continuous"), registry)
>>> model = plan.build(seed=0)
>>> sample(model.score(), model.sde, plan.sampler, model.shape, n=16)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ..components import Spec, parameters
from ..dataset import Dataset
from ..errors import UsageError
from ..loss import Loss
from ..network import Network
from ..registry import OURS, Registry
from ..sampler import Sampler
from ..score import PARAMETERISATIONS, NetworkScore
from ..sde import SDE
from ..training.batches import Preprocessing
from .config import Config

_SHARED = ("sigma_min", "sigma_max")
"""Parameters of an SDE that a network with a table of noise scales has as well: said once, in the SDE."""


@attrs.frozen(eq=False)
class Plan:
    """A configuration's components, checked, before anything large is built."""

    config: Config
    network: Network
    sde: SDE
    sampler: Sampler

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.config.model.shape

    def to_symmetric(self, x: Tensor) -> Tensor:
        """Events of the model's range in [-1, 1]."""
        return x if self.config.model.centered else 2 * x - 1

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


def plan_model(config: Config, registry: Registry, outputs: Collection[str] | None = tuple(PARAMETERISATIONS)) -> Plan:
    """The components that ``config`` names; its network has to give one of ``outputs``, a score, unless that is None.

    The network takes from the rest what it would otherwise repeat: ``centered``, and the ends of its table of noise
    scales. A network that says otherwise is an error.
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
    return Plan(config, network, sde, registry.create("samplers", config.sampling.sampler))


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
    return dataset, Preprocessing(config.model.centered, flip=config.data.random_flip and len(shape) == 3)


def find_dataset(spec: Spec, shape: tuple[int, ...], registry: Registry, download: bool = False) -> Dataset:
    """The data set ``spec`` with events of ``shape``: one that has a ``size`` gets it, any other is resized."""
    side = {"size": shape[-1]} if len(shape) == 3 else {}
    dataset: Dataset = registry.create("datasets", spec, download=download, **side)
    found = dataset.shape
    if len(found) == len(shape) == 3 and found[0] == shape[0] and found != shape and shape[1] == shape[2]:
        dataset = registry.create("datasets", Spec(f"{OURS}:resized", {"data": dataset, **side}))
    if dataset.shape != shape:
        raise UsageError(
            f"the data set {spec} has events of shape {found}, the model {shape}: set model.shape, "
            "or choose another data set"
        )
    return dataset
