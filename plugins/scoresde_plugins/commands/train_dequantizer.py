r"""``scoresde train-dequantizer``: trains dequantisation noise on a model's variational bound.

    minimise over q   E_{u ~ q(u | v)}[bound(x) + log q(u | v)],   x the model's value of (v + u) / 256

(Song et al. 2021, arXiv:2101.09258, Appendix C). The score is frozen; gradients reach q through x. The logged loss is
this bound in bits/dim, without the small step from t_min to the data. The training loop, states, resuming and averaging
are those of ``scoresde train``.
"""

import argparse
import math
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import Command, Draws, Loss, Registry, ScoreModel, Spec, UsageError, build, parse
from scoresde_run import Config, NetworkScore, Plan, Preprocessing, Processes, Trainer, Units
from scoresde_run.commands.opened import OpenedModel, open_model
from scoresde_run.commands.options import add_model
from scoresde_run.commands.train import add_run, run_training
from scoresde_run.models.config import DataConfig, ModelConfig, SamplingConfig, TrainingConfig
from scoresde_run.models.model import find_dataset
from scoresde_run.training.trainer import TrainingPlan
from ..dequantizers.flowpp import FlowPP
from ..dequantizers.variational import NAME
from ..likelihood.bound import bound_draw
from ..likelihood.likelihood import PUBLISHED_T_MIN, trained_t_min
from ..numerics.flow import require_continuous


@attrs.frozen
class TrainDequantizerCommand(Command):
    """Trains Flow++'s dequantisation flow for a checkpoint or an exact target.

    Use it in ``scoresde likelihood --dequantizer 'variational[checkpoint=RUN]'``.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        parser.add_argument("--dataset", metavar="X", help="uint8 images (default: the configuration's)")
        add_run(parser)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        arguments.seed = 0  # of a preset's random weights
        return run_training(arguments, registry, partial(_plan, arguments, registry))


@attrs.frozen(eq=False)
class DequantizationLoss(Loss):
    """The bound in bits/dim at one time and one noise per image; the network is the flow, ``score`` is frozen."""

    score: ScoreModel
    units: Units
    t_min: float = PUBLISHED_T_MIN

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        """(B,) for uint8 ``x`` (B, C, H, W)."""
        assert isinstance(model, NetworkScore)
        u, log_q = model.network(x, draws.normal(x.float(), "dequantise"))
        events = self.units.encode(x, u)
        share = draws.uniform("time", stratified=True)
        nats = bound_draw(self.score, events, share, draws.normal(events, "noise"), self.t_min) + log_q
        # Convert the model's density to one on [-1, 1], and to the probability of a cell of width 2/256.
        nats = nats + self.units.log_volume(tuple(x.shape[1:]))
        return nats / (x[0].numel() * math.log(2)) + math.log2(256 / 2)  # type: ignore[no-any-return]


@attrs.frozen
class StoredImages(Preprocessing):
    """No conversion: images stay grey levels."""

    def __call__(self, events: Tensor, draws: Draws | None = None) -> Tensor:
        return self.augment(events, draws)


class DequantizerTrainer(Trainer):
    """A trainer whose pictures show the noise instead of samples."""

    use = "scoresde likelihood --dequantizer 'variational[checkpoint={}]' ..."

    @torch.no_grad()
    def sample(self) -> Tensor:
        """u for the first images of the stream, in the model's units: middle grey is the middle of a cell."""
        images = next(self.batches.stream(0)).x[: self.plan.config.sampling.n]
        u, _ = self.averaged().network(images, self.batches.draws("picture", len(images)).normal(images.float()))
        drawn: Tensor = self.plan.model.units.encode(2 * u - 1)
        return drawn.cpu()


class DequantizerPlan(TrainingPlan):
    """A plan that builds a :class:`DequantizerTrainer`."""

    def build(self, processes: Processes) -> Trainer:
        return DequantizerTrainer(self, processes)


def _plan(arguments: argparse.Namespace, registry: Registry, processes: Processes) -> TrainingPlan:
    opened = open_model(arguments, registry, processes.device)
    require_continuous(opened.score, "a dequantiser's bound", "an integral over")
    if isinstance(opened.score, NetworkScore):
        opened.score.network.requires_grad_(False)
    config = _config(arguments, opened).override(arguments.changes)
    network: FlowPP = build(FlowPP, dict(config.model.network.params), f"the network {NAME!r}")
    assert config.data.dataset is not None
    dataset = find_dataset(config.data.dataset, opened.shape, registry, arguments.download)
    if dataset.open("train")[0].dtype != torch.uint8:
        raise UsageError(f"the data set {config.data.dataset} holds no 8-bit images: dequantisation needs uint8 images")
    loss = DequantizationLoss(opened.score, opened.units, trained_t_min(opened.plan, registry))
    plan = Plan(config, network, opened.sde, opened.sampler)
    units = attrs.asdict(plan.units, recurse=False)
    return DequantizerPlan(plan, loss, dataset, StoredImages(**units, flip=config.data.random_flip))


def _config(arguments: argparse.Namespace, opened: OpenedModel) -> Config:
    """ScoreFlow's configuration; the loss names the score, so that a resumed run must use the same one."""
    own = None if opened.plan is None else opened.plan.config
    data = parse(arguments.dataset) if arguments.dataset else None if own is None else own.data.dataset
    if data is None:
        raise UsageError("name the images: --dataset cifar10, or another data set of uint8 images")
    sde = parse(arguments.sde or "vp") if own is None else own.model.sde
    score: dict[str, Any] = {key: str(value) for key, value in opened.origin.items() if value}
    return Config(
        ModelConfig(Spec(NAME), sde, opened.shape, **{**attrs.asdict(opened.units, recurse=False), "levels": 256}),
        TrainingConfig(Spec("dequantization", score), 128, 300_000, ema=0.99, evaluate_every=1000, resume_every=1000),
        DataConfig(data, random_flip=own is not None and own.data.random_flip),
        SamplingConfig(n=64),
    )
