"""The model that a command works on: a checkpoint, a preset with random weights, or an exact target under an SDE."""

import argparse
from operator import attrgetter
from typing import Any

import attrs
import torch
from scoresde_core import OURS, ExactScore, Registry, Sampler, ScoreModel, Target, UsageError
from ..data.units import Units
from ..machine.device import PRECISIONS, use_tf32
from ..models import checkpoint
from ..models.model import Model, Plan, plan_model
from ..results.fingerprint import Fingerprint, placeless
from .options import check_weights
from .presets import find_preset, own_config


@attrs.frozen(eq=False)
class OpenedModel:
    """A score model on a device, with its SDE, default sampler and units, for a command with these ``arguments``."""

    arguments: argparse.Namespace
    registry: Registry
    score: ScoreModel
    units: Units
    sampler: Sampler
    n: int
    device: torch.device
    origin: dict[str, Any]  # where the model is from, as recorded in results
    plan: Plan | None = None  # the configuration's components; None for a target
    target: Target | None = None  # the exact target, on the CPU; None for a network
    sde, shape = (property(attrgetter(f"score.{name}")) for name in ("sde", "shape"))

    @property
    def named(self) -> dict[str, Any]:
        """What a result depends on besides the options: the weights, and the kind of device."""
        return {"origin": self.origin, "device": self.device.type}

    @property
    def parts(self) -> tuple[Any, ...]:
        """The components that a result depends on."""
        return self.sde, self.target, self.plan and self.plan.network

    @property
    def data(self) -> str:
        """The data set of the model, as typed; ``none`` if it is not known."""
        if self.plan is None:
            return f"exact[target={self.origin['target']}]"
        return str(self.plan.config.data.dataset or "none")


def open_model(arguments: argparse.Namespace, registry: Registry, device: torch.device) -> OpenedModel:
    """Open the model that the options choose, in ``--dtype`` and ``--precision`` if any; float32 is never TF32."""
    dtype = getattr(torch, getattr(arguments, "dtype", "float32"))
    autocast = PRECISIONS[getattr(arguments, "precision", "float32")]
    use_tf32(False)
    check_weights(arguments)
    if arguments.target is not None:
        return _target(arguments, registry, device, dtype)
    if arguments.sde is not None and arguments.network is None:
        raise UsageError(f"--sde {arguments.sde} needs a --target: a model has its own SDE")
    model, origin = _model(arguments, registry)
    score, plan = model.to(device, dtype).score(autocast=autocast), model.plan
    how = plan.units, plan.sampler, plan.config.sampling.n
    return OpenedModel(arguments, registry, score, *how, device, origin, plan)


def _target(arguments: argparse.Namespace, registry: Registry, device: torch.device, dtype: torch.dtype) -> OpenedModel:
    if arguments.set or arguments.weights:
        option = "--set" if arguments.set else "--weights"
        raise UsageError(f"{option} has no effect on a --target: write its parameters in brackets, name[key=value]")
    target = registry.create("targets", arguments.target)
    sde = registry.create("sdes", arguments.sde or f"{OURS}:vp")
    if reason := sde.skip_target(target):
        raise UsageError(reason)
    sampler = registry.create("samplers", f"{OURS}:pc")
    origin = {"target": arguments.target, "weights": "exact score"}
    score = ExactScore(target.to(device, dtype), sde)
    units = Units(levels=256 if target.images else None)
    return OpenedModel(arguments, registry, score, units, sampler, 64, device, origin, target=target)


def _model(arguments: argparse.Namespace, registry: Registry) -> tuple[Model, dict[str, Any]]:
    if arguments.network is not None:
        typed = {"weights": arguments.weights, "parameterisation": arguments.parameterisation}
        config = own_config(registry, arguments.network, arguments.sde, **typed).override(arguments.set)
        plan = plan_model(config, registry)
        known = placeless(Fingerprint(registry).depends(plan.network, plan.sde))
        return plan.build(), {"network": str(config.model.network), "sde": str(config.model.sde), **known}
    if arguments.checkpoint is None:
        if arguments.weights:
            raise UsageError(f"--weights {arguments.weights} needs a --checkpoint: a preset has random weights")
        config = find_preset(registry, arguments.preset).override(arguments.set)
        model = plan_model(config, registry).build(arguments.seed)
        weights = f"random, seed {arguments.seed}"
        return model, {"preset": arguments.preset, "changes": arguments.set, "weights": weights}
    found = checkpoint.find(arguments.checkpoint, registry)
    found = attrs.evolve(found, config=found.config.override(arguments.set))
    ema = None if arguments.weights is None else arguments.weights == "ema"
    origin = {"checkpoint": arguments.checkpoint, "changes": arguments.set, "step": found.step}
    origin |= {"weights": "ema" if found.uses_ema(ema) else "raw", "digest": found.digest(ema)}
    return found.load(registry, ema), origin
