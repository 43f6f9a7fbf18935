r"""Training: one optimiser step after another, as a generator.

Step k is a function of the state before it and of (seed, k): batch k, its flips, times and noise are keyed by these,
and before the network runs, torch's generators are seeded from (seed, k, rank), which fixes dropout. Therefore no
generator state is saved, and a resumed run gives the same bits as one that was not stopped.

A step makes no host synchronisation on CUDA: losses are summed on the device until they are read.
"""

import contextlib
import copy
import itertools
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from scoresde_core import OURS, Draws, FileError, Loss, Registry, ScoreModel, Spec, UsageError
from scoresde_core import sampler as sampling
from scoresde_core.noise import key
from ..data.batches import Batch, Batches, Preprocessing
from ..data.dataset import Dataset, Split
from ..data.scale import mismatch
from ..machine.device import PRECISIONS
from ..machine.processes import Processes
from ..models import known
from ..models.config import Config, TrainingConfig
from ..models.model import Model, Plan, plan_data, plan_loss, plan_model, preprocessing, record_units


@attrs.frozen(eq=False)
class TrainingPlan:
    """A configuration's components for training, checked against each other before anything large is allocated."""

    model: Plan
    loss: Loss
    dataset: Dataset
    preprocessing: Preprocessing

    @property
    def config(self) -> Config:
        """The whole configuration."""
        return self.model.config

    def build(self, processes: Processes) -> "Trainer":
        """Build the trainer, with its network, on ``processes.device``."""
        return Trainer(self, processes)


def plan_training(config: Config, registry: Registry, *, download: bool = False) -> TrainingPlan:
    """Create the components of ``config`` and record the units of the data; UsageError if they cannot be trained."""
    plan = plan_model(config, registry, outputs=None, read=False)
    loss = plan_loss(plan, registry)
    if reason := sampling.skip(plan.sampler, plan.sde, plan.shape):
        raise UsageError(reason)
    dataset, _ = plan_data(plan, registry, download)
    plan = record_units(plan, dataset)
    found, dequantizer = preprocessing(plan), config.data.dequantizer
    if dequantizer is not None:
        if dequantizer not in (Spec("uniform"), Spec(f"{OURS}:uniform")):
            raise UsageError(f"training adds uniform dequantisation noise or none, got data.dequantizer={dequantizer}")
        found = attrs.evolve(found, dequantise=True)
    return TrainingPlan(plan, loss, dataset, found)


class Average:
    """An exponential moving average of a network's parameters, in a copy of the network.

        average <- average + (1 - rate) (parameter - average)

    ``warm_up`` bounds the rate after n updates by (1 + n) / (10 + n), as in the published PyTorch code, so that early
    averages forget the random weights. Buffers are copied from the network.
    """

    def __init__(self, network: nn.Module, rate: float, warm_up: bool = False) -> None:
        self.rate, self.warm_up = rate, warm_up
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.parameters = {name: self.network.get_parameter(name) for name in trained}
        self._mine, self._theirs = tuple(self.parameters.values()), tuple(trained.values())
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Make the ``updates``-th step towards the network, in a few kernels for all parameters."""
        rate = min(self.rate, (1 + updates) / (10 + updates)) if self.warm_up else self.rate
        torch._foreach_lerp_(self._mine, self._theirs, 1 - rate)

    @torch.no_grad()
    def current(self) -> nn.Module:
        """The averaged network, in evaluation mode, with the network's current buffers."""
        for own, other in self._buffers:
            own.copy_(other)
        return self.network


@attrs.define(eq=False)
class TrainingState:
    """Everything that a training step changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    losses: Tensor  # sum of the losses since they were last read, float64 on the device
    counted: int = 0  # number of losses in the sum
    step: int = 0  # optimiser steps made so far

    def finite(self) -> bool:
        """Whether every parameter and loss is finite; waits for the device."""
        norms = torch._foreach_norm([p.detach() for p in self.network.parameters()])
        return bool(torch.stack([*(n.double() for n in norms), self.losses]).isfinite().all())


class Trainer:
    """A plan with its network, optimiser and data on a device; :meth:`steps` trains."""

    def __init__(self, plan: TrainingPlan, processes: Processes) -> None:
        self.plan, self.processes, self.device = plan, processes, processes.device
        self.config: TrainingConfig = plan.config.training
        if self.config.batch_size % (processes.count * self.config.accumulate):
            parts = f"{processes.count} processes x {self.config.accumulate} parts"
            remedy = "change training.batch_size or training.accumulate"
            raise UsageError(f"a batch of {self.config.batch_size} does not divide into {parts}: {remedy}")
        if self.config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
            torch.use_deterministic_algorithms(True)  # with warnings in place of errors, attention is not deterministic
        self.batches = self._batches("train", plan.preprocessing)
        self._warn_of_scale()
        self._test = self._test_events()
        network = plan.model.build(self.config.seed).network.to(self.device)
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self.state = self._fresh(network)
        self.gradient_norm: Tensor | None = None
        self._wrapped = self._wrap(network)
        self._model = Model(plan.model, self._wrapped).view(autocast=PRECISIONS[self.config.precision])

    def learning_rate(self, step: int) -> float:
        """The learning rate after ``step`` steps: it rises from 0 over the warm-up, then stays constant."""
        warmup = self.config.warmup
        return self.config.learning_rate * (min(step / warmup, 1.0) if warmup else 1.0)

    def steps(self) -> Iterator[Tensor]:
        """Optimiser steps without end: the mean loss over this process's share of each batch, 0-dim on the device."""
        for batch in self.batches.stream(self.state.step):
            yield self._step(batch)

    def read_loss(self) -> float:
        """The mean loss over the steps since the last call and over all processes; waits for the device."""
        state = self.state
        total = self.processes.total(state.losses.clone()) / self.processes.count
        mean = float(total) / max(state.counted, 1)
        state.losses.zero_()
        state.counted = 0
        return mean

    def averaged(self) -> Model:
        """The model with averaged weights, or plain ones if there are none, in evaluation mode."""
        average = self.state.average
        return Model(self.plan.model, self.state.network.eval() if average is None else average.current())

    @torch.no_grad()
    def evaluate(self) -> float:
        """The loss of :meth:`averaged` on the first test events, at the same times and noise in every call."""
        model, sums = self.averaged().view(), torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(self._test):
            losses = self._losses(model, batch, self.batches.draws(f"evaluation {number}", len(batch.x)))
            sums[0] += losses.double().sum()
            sums[1] += len(batch.x)
        total, count = self.processes.total(sums).tolist()
        return total / count if count else math.nan

    @property
    def generates(self) -> bool:
        """Whether the trained model can be sampled from: a score model can, a classifier cannot."""
        return isinstance(self._model, ScoreModel)

    @property
    def use(self) -> str:
        """How to use the result, with ``{}`` for its folder."""
        return "scoresde sample --checkpoint {} --out ..." if self.generates else "the condition class[checkpoint={}]"

    def sample(self) -> Tensor:
        """Draw samples of :meth:`averaged` with the configuration's sampler, from the same noise in every call."""
        model, n = self.averaged().score(), self.plan.config.sampling.n
        if names := known.wanted(model):
            model = model.given(**{name: self._shown(name, names[name], n) for name in names})
        with torch.no_grad():
            drawn = sampling.sample(model, self.plan.model.sampler, n, seed=self.config.seed, device=self.device)
        return drawn.x.cpu()

    def _shown(self, name: str, kind: int | tuple[int, ...], n: int) -> Tensor:
        """What the ``n`` samples of a picture know: each class equally often, in order, or rows of the first events."""
        if isinstance(kind, int):
            return torch.arange(n, device=self.device) * kind // n
        value = self.batches.known[name]
        rows = value[torch.arange(n, device=value.device) % len(value)]
        return self.plan.preprocessing.beside(rows, self.batches.shape)

    def _step(self, batch: Batch) -> Tensor:
        state, parts = self.state, self.config.accumulate
        torch.manual_seed(key(self.config.seed, "network", state.step, self.processes.rank))
        state.network.train()
        for group in state.optimizer.param_groups:
            group["lr"] = self.learning_rate(state.step)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        row, no_sync = 0, getattr(self._wrapped, "no_sync", contextlib.nullcontext)
        for number, part in enumerate(batch.parts(parts)):  # the last averages gradients over processes
            with no_sync() if number < parts - 1 else contextlib.nullcontext():
                draws = self.batches.draws(state.step, len(part.x), row)
                loss = self._losses(self._model, part, draws).mean() / parts
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            row += len(part.x)
        if self.config.gradient_clip is not None:
            state.scaler.unscale_(state.optimizer)
            self.gradient_norm = nn.utils.clip_grad_norm_(self._trained, self.config.gradient_clip, foreach=True)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.average is not None:
            state.average.update(state.step)
        state.losses += total
        state.counted += 1
        return total

    def _losses(self, model: Any, batch: Batch, draws: Draws) -> Tensor:
        x = batch.x
        if self.config.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if names := known.wanted(model):
            told = {name: batch.known[name] for name in names}
            if model is self._model and self.config.known_dropout:
                free = {name: value for name, value in told.items() if name not in model.sde.needs}
                told |= known.dropped(free, draws.uniform("known") >= self.config.known_dropout)
            model = model.given(**told)
        return self.plan.loss.per_sample(model, x, draws, **{name: batch.known[name] for name in self.plan.loss.needs})

    def _fresh(self, network: nn.Module) -> TrainingState:
        config = self.config
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        how: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.adam_eps}
        fused = self.device.type in ("cuda", "cpu")
        optimizer = kind(self._trained, **how, weight_decay=config.weight_decay, fused=fused)
        scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        average = None if config.ema is None else Average(network, config.ema, config.ema_warmup)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        return TrainingState(network, optimizer, scaler, average, losses)

    def _wrap(self, network: nn.Module) -> nn.Module:
        """The network that the loss calls: compiled if asked, with gradients averaged over the processes."""
        if self.config.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.processes.count > 1:
            # The weights are equal already, because the seed determines them; buffers are never trained.
            static = self.config.accumulate == 1
            network = nn.parallel.DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True,
                static_graph=static, find_unused_parameters=not static,
            )  # fmt: skip
        return network

    def _batches(self, split: Split, preprocessing: Preprocessing) -> Batches:
        model = self.plan.model.network.view(nn.Identity(), self.plan.model.sde, self.plan.model.shape)
        where: dict[str, Any] = {"rank": self.processes.rank, "world": self.processes.count, "device": self.device}
        where |= {"seed": self.config.seed, "workers": self.plan.config.data.workers}
        needs = tuple({**dict.fromkeys(self.plan.loss.needs), **known.wanted(model)})
        how = {"split": split, "preprocessing": preprocessing, "needs": needs, **where}
        batches = Batches(self.plan.dataset, self.config.batch_size, **how)
        if isinstance(model, ScoreModel):
            known.check(model, batches.known, f"{self.plan.dataset}")
        if reason := self.plan.loss.skip_data(model, batches.known):
            raise UsageError(reason)
        return batches

    def _warn_of_scale(self) -> None:
        """Warn if the scale of the data does not fit the SDE: training would run, and samples would be useless."""
        plan, batches = self.plan.model, self.batches
        if self.processes.first and (reason := mismatch(batches.events, batches.shape, plan.units, plan.sde)):
            remedies = ("set data.standardise=true, or data.shift and data.scale", "choose an SDE with other noise")
            warnings.warn(f"{reason}: {remedies[plan.config.data.standardise]}", stacklevel=2)

    def _test_events(self) -> list[Batch]:
        """This process's share of the first test batches, not mirrored."""
        if self.config.evaluate_every is None:
            return []
        try:
            batches = self._batches("test", attrs.evolve(self.plan.preprocessing, flip=False))
        except (FileError, UsageError) as error:
            raise type(error)(f"{error} (training.evaluate_every=null needs no test events)") from error
        return list(itertools.islice(batches.once(), self.config.evaluate_batches))
