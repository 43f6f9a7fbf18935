r"""What is measured of a model, in batches: batch k is a function of the weights, the settings and k alone.

    loss        the configuration's training loss of every event, at times and noise keyed by (seed, batch, row): with
                the seed and batch size of training, the numbers that training logs as evaluation_loss
    likelihood  bits per dimension of every event and repeat; noise and probes keyed by (seed, repeat, event)
    samples     draws of the sampler, keyed by (seed, index of the sample)
    judgement   an evaluator's metrics of all these samples: a single batch, which needs the samples

A batch couples its events only through what couples any batch: an ODE's error norm, a corrector's mean norms. So the
batch size is one of the settings, and the number of processes is not.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.cli.results import Row
from scoresde_core.cli.rows import describe
from scoresde_core.dataset import Events
from scoresde_core.dequantizer import Dequantizer
from scoresde_core.errors import ScoreSDEError
from scoresde_core.evaluator import Evaluator, Evidence, Metric, Reference
from scoresde_core.loss import Draws, Loss
from scoresde_core.models.model import Plan
from scoresde_core.sampler import Observer, Sampler, sample
from scoresde_core.score import NetworkScore
from scoresde_core.training.batches import Preprocessing

from ..score_sde.bits_per_dim import bits_per_dim
from ..score_sde.divergence import Trace
from ..score_sde.flow import Solver
from ..score_sde.likelihood import log_likelihood
from .parts import Part, Parts


@attrs.frozen(eq=False)
class Subject:
    """A model that is measured: its score on a device, and where the parts of its measures are."""

    score: NetworkScore
    device: torch.device
    dtype: torch.dtype
    parts_of: Callable[[Measure], Parts]
    observe: Observer | None = None


class Measure(ABC):
    """One thing that is measured of a model with a certain plan."""

    name: ClassVar[str]

    @property
    def title(self) -> str:
        """What tells it from the others of a row."""
        return self.name

    @property
    @abstractmethod
    def count(self) -> int:
        """How many batches there are."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the numbers depend on beside the model, as plain data."""

    @abstractmethod
    def compute(self, k: int, subject: Subject) -> Part:
        """Batch ``k``."""

    @abstractmethod
    def summarise(self, parts: Iterable[Part]) -> Row:
        """What all batches together add to a row."""


@attrs.frozen(eq=False)
class Share:
    """The events that are measured, at ``indices`` of a split, in batches; ``source`` names them in the settings."""

    events: Events
    indices: Sequence[int]
    batch_size: int
    source: dict[str, Any]

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-len(self.indices) // self.batch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """What the events of a batch depend on."""
        return {**self.source, "of": len(self.events), "events": len(self.indices), "batch_size": self.batch_size}

    def batch(self, k: int) -> tuple[int, Tensor]:
        """The position of its first event, and the events (n, ...) as stored."""
        first = k * self.batch_size
        chosen = self.indices[first : first + self.batch_size]
        if isinstance(self.events, Tensor):
            return first, self.events[torch.as_tensor(chosen)]
        return first, torch.stack([self.events[index] for index in chosen])


@attrs.frozen(eq=False)
class SplitLoss(Measure):
    """The training loss of the events of a split, as it is evaluated during training."""

    name: ClassVar[str] = "loss"

    plan: Plan
    loss: Loss
    preprocessing: Preprocessing
    share: Share
    seed: int
    versions: dict[str, str]

    @property
    def count(self) -> int:
        """How many batches there are."""
        return self.share.count

    @property
    def settings(self) -> dict[str, Any]:
        """Loss, preprocessing, events and seed."""
        parts = {"loss": describe(self.loss), "preprocessing": describe(self.preprocessing)}
        return {**parts, **self.share.settings, "seed": self.seed, "versions": self.versions}

    @torch.no_grad()
    def compute(self, k: int, subject: Subject) -> Part:
        """The loss of each event, (n,)."""
        started, (_, events) = time.perf_counter(), self.share.batch(k)

        def draws(step: str) -> Draws:
            return Draws(self.seed, step, len(events), total=self.share.batch_size, device=subject.device)

        x = self.preprocessing(events.to(subject.device), draws(f"pass {k}")).to(subject.dtype)
        losses = self.loss.per_sample(subject.score, self.plan.sde, x, draws(f"evaluation {k}"))
        return Part({"loss": losses.double().cpu()}, {"seconds": time.perf_counter() - started})

    def summarise(self, parts: Iterable[Part]) -> Row:
        """The mean over events."""
        losses, records = _joined(parts, "loss")
        cost = {"events": len(losses), "seconds": _total(records, "seconds")}
        metric = _mean(f"{self.share.source['split']}_loss", losses, "")
        return {"metrics": _plain([metric]), "costs": {self.name: cost}}


@attrs.frozen(eq=False)
class Likelihood(Measure):
    """Bits per dimension by the probability flow ODE; of images with their dequantisation, of points as they are."""

    name: ClassVar[str] = "likelihood"

    plan: Plan
    share: Share
    dequantizer: Dequantizer
    repeats: int
    trace: Trace
    probes: int
    solver: Solver
    t_min: float
    seed: int
    discrete: bool
    versions: dict[str, str]

    @property
    def count(self) -> int:
        """How many batches there are."""
        return self.share.count

    @property
    def settings(self) -> dict[str, Any]:
        """The whole protocol."""
        ode = {"trace": self.trace, "probes": self.probes, "solver": describe(self.solver), "t_min": self.t_min}
        noise = {"dequantizer": describe(self.dequantizer), "repeats": self.repeats, "seed": self.seed}
        return {**ode, **noise, "discrete": self.discrete, **self.share.settings, "versions": self.versions}

    def compute(self, k: int, subject: Subject) -> Part:
        """Bits per dimension (repeats, n), and the function evaluations of each, summed over the repeats, (n,)."""
        started, (first, events) = time.perf_counter(), self.share.batch(k)
        nfe = torch.zeros(len(events), dtype=torch.int64)

        def log_prob(x: Tensor, seed: int) -> Tensor:
            found = log_likelihood(
                subject.score, self.plan.sde, x, trace=self.trace, probes=self.probes, t_min=self.t_min,
                solver=self.solver, seed=seed, first=first, discrete=self.discrete,
            )  # fmt: skip
            nfe.add_(found.nfe.cpu())
            return found.log_prob

        events = events.to(subject.device)
        if events.is_floating_point():
            x, bits = events.to(subject.dtype), math.log(2) * events[0].numel()
            values = torch.stack([-log_prob(x, self.seed + repeat).double() / bits for repeat in range(self.repeats)])
        else:
            low = -1.0 if self.plan.config.model.centered else 0.0
            values = bits_per_dim(
                log_prob, events, low=low, dequantizer=self.dequantizer, repeats=self.repeats, seed=self.seed,
                first=first, dtype=subject.dtype,
            ).values  # fmt: skip
        return Part({"bits": values.cpu(), "nfe": nfe}, {"seconds": time.perf_counter() - started})

    def summarise(self, parts: Iterable[Part]) -> Row:
        """The mean over events and repeats, its standard error that over events."""
        kept = list(parts)
        bits, records = _joined(kept, "bits", 1)
        nfe, _ = _joined(kept, "nfe")
        cost = {"events": bits.shape[1], "seconds": _total(records, "seconds")}
        cost |= {"nfe": float(nfe.double().mean()) / self.repeats}
        return {"metrics": _plain([_mean("bits_per_dim", bits.mean(0), "bits/dim")]), "costs": {self.name: cost}}


@attrs.frozen(eq=False)
class Draw(Measure):
    """Samples; they are kept, so that another evaluator draws none anew."""

    name: ClassVar[str] = "samples"

    plan: Plan
    sampler: Sampler
    n: int
    batch_size: int
    seed: int
    versions: dict[str, str]

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-self.n // self.batch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """Sampler, number, batch size and seed."""
        numbers = {"n": self.n, "batch_size": self.batch_size, "seed": self.seed}
        return {"sampler": describe(self.sampler), **numbers, "versions": self.versions}

    def compute(self, k: int, subject: Subject) -> Part:
        """Samples (n, *shape) in the model's range."""
        first = k * self.batch_size
        drawn = sample(
            subject.score, self.plan.sde, self.sampler, self.plan.shape, min(self.batch_size, self.n - first),
            seed=self.seed, first=first, device=subject.device, dtype=subject.dtype, observe=subject.observe,
        )  # fmt: skip
        return Part({"x": drawn.x.cpu()}, {"nfe": drawn.nfe, "seconds": drawn.seconds})

    def summarise(self, parts: Iterable[Part]) -> Row:
        """What they cost; raises where the sampler diverged."""
        nfe = seconds = 0.0
        bad = 0
        for part in parts:
            x = part.tensors["x"]
            bad += int((~x.flatten(1).isfinite().all(1)).sum())
            nfe += part.record["nfe"] * len(x)
            seconds += part.record["seconds"]
        if bad:
            raise ScoreSDEError(f"the sampler diverged: {bad} of {self.n} samples are not finite; try more steps")
        cost = {"events": self.n, "seconds": seconds, "nfe": nfe / self.n}
        speed = {"seconds": seconds, "samples_per_second": self.n / seconds if seconds else None}
        return {"nfe": nfe / self.n, **speed, "costs": {self.name: cost}}

    def collect(self, subject: Subject) -> Tensor:
        """All of them (n, *shape), in [-1, 1]."""
        x = torch.cat([part.tensors["x"] for part in subject.parts_of(self).all(self.count)])
        return self.plan.to_symmetric(x.to(subject.device))


@attrs.frozen(eq=False)
class Judgement(Measure):
    """An evaluator's metrics of the samples, or of the model itself: then ``draw`` is None."""

    name: ClassVar[str] = "judgement"

    plan: Plan
    written: str
    """The evaluator as it was typed."""
    evaluator: Evaluator
    draw: Draw | None
    n: int
    seed: int
    reference: Reference | None
    versions: dict[str, str]

    @property
    def title(self) -> str:
        """``judgement nll_gap``."""
        return f"{self.name} {self.written}"

    @property
    def count(self) -> int:
        """One: it needs all samples at once."""
        return 1

    @property
    def settings(self) -> dict[str, Any]:
        """The evaluator, its truth, and the samples."""
        truth = None if self.reference is None else describe(self.reference.target)
        judge = {"evaluator": describe(self.evaluator), "target": truth, "versions": self.versions}
        samples = {"n": self.n, "seed": self.seed} if self.draw is None else self.draw.settings
        return {"samples": samples, **judge}

    def evidence(self, score: NetworkScore, samples: Tensor) -> Evidence:
        """What the evaluator sees."""
        return Evidence(samples, self.seed, sde=self.plan.sde, model=score, reference=self.reference)

    def blank(self, device: torch.device) -> Tensor:
        """As many samples as there will be, all 0, in next to no memory."""
        return torch.zeros(1, *self.plan.shape, device=device).expand(self.n, *self.plan.shape)

    def compute(self, k: int, subject: Subject) -> Part:
        """The metrics, or why there are none."""
        started = time.perf_counter()
        samples = self.blank(subject.device) if self.draw is None else self.draw.collect(subject)
        evidence = self.evidence(subject.score, samples)
        reason = self.evaluator.skip(evidence)
        found = [] if reason else self.evaluator.evaluate(evidence)
        record = {"metrics": [attrs.asdict(metric) for metric in found], "skipped": reason}
        return Part({}, {**record, "seconds": time.perf_counter() - started})

    def summarise(self, parts: Iterable[Part]) -> Row:
        """They, or why there are none."""
        (part,) = parts
        row: Row = {
            "metrics": _plain([Metric(**metric) for metric in part.record["metrics"]]),
            "costs": {self.title: {"seconds": part.record["seconds"]}},
        }
        skipped = part.record["skipped"]
        return {**row, "metrics_skipped": {self.written: skipped}} if skipped else row


def _mean(name: str, values: Tensor, unit: str) -> Metric:
    """The mean of float64 ``values`` (n,) and its standard error."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Metric(name, float(values.mean()), error, unit=unit)


def _plain(metrics: Sequence[Metric]) -> Row:
    """Metrics as a row holds them."""
    return {m.name: m.plain() for m in metrics}


def _joined(parts: Iterable[Part], name: str, dim: int = 0) -> tuple[Tensor, list[dict[str, Any]]]:
    """A tensor of all parts, and their records."""
    kept = list(parts)
    return torch.cat([part.tensors[name] for part in kept], dim), [part.record for part in kept]


def _total(records: Sequence[dict[str, Any]], name: str) -> float:
    return sum(float(record[name]) for record in records)
