r"""Measures of a model alone: loss, likelihood and samples.

    loss        the configuration's training loss of every event, at times and noise keyed by (seed, batch, row); with
                the seed and batch size of training, this is the evaluation_loss that training logs
    likelihood  bits per dimension of every event and repeat; noise and probes keyed by (seed, repeat, event)
    samples     draws of the sampler, keyed by (seed, index of the sample)

Events of a batch are coupled only by an ODE's error norm or a corrector's mean norms. So the batch size is a setting,
and the number of processes is not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Draws, Loss, Sampler, ScoreSDEError, Target, sample
from scoresde_run import Dequantizer, Plan, Preprocessing, Row, Units
from scoresde_run.sampling.samples import diverged, smallest_batch
from ..likelihood.bits_per_dim import Measurement, join, measure
from ..likelihood.density import Density
from .measure import EventMeasure, Measure, MeasuredModel, mean
from .parts import Part


@attrs.frozen(eq=False)
class SplitLoss(EventMeasure):
    """The training loss of the events of a split, as evaluated during training."""

    name, stated = "loss", ("loss", "preprocessing", "seed")

    sde: SDE
    loss: Loss
    preprocessing: Preprocessing
    seed: int

    @torch.no_grad()
    def measure(self, k: int, model: MeasuredModel) -> Part:
        _, events = self.share.batch(k)

        def draws(step: str) -> Draws:
            return Draws(self.seed, step, len(events), total=self.share.batch_size, device=model.device)

        x = self.preprocessing(events.to(model.device), draws(f"pass {k}")).to(model.dtype)
        losses = self.loss.per_sample(self.share.told(model.score, k), x, draws(f"evaluation {k}"))
        return Part({"loss": losses.double().cpu()})

    def summarise(self, parts: Sequence[Part]) -> Row:
        losses = torch.cat([part.tensors["loss"] for part in parts])
        return self.found([mean(f"{self.share.source['split']}_loss", losses)], parts, events=len(losses))


@attrs.frozen(eq=False)
class SplitLikelihood(EventMeasure):
    """Bits per dimension under a density; images are dequantised, points are not."""

    name, stated = "likelihood", ("density", "dequantizer", "repeats", "seed", "target", "latents")

    sde: SDE
    density: Density
    dequantizer: Dequantizer
    repeats: int
    seed: int
    units: Units
    """The model's units, to convert its bits to those of the data."""
    target: Target | None = None
    """An exact target on the CPU, whose own bits are measured too."""
    latents: bool = False
    """Whether to keep the latents."""

    @property
    def protocol(self) -> dict[str, Any]:
        return {**super().protocol, "units": attrs.asdict(self.units)}

    def measure(self, k: int, model: MeasuredModel) -> Part:
        first, events = self.share.batch(k)
        found = measure(
            self.density, self.share.told(model.score, k), events.to(model.device),
            repeats=self.repeats, seed=self.seed, first=first, exact=self._exact(), units=self.units,
            dequantizer=self.dequantizer, dtype=model.dtype,
        ).tensors  # fmt: skip
        if not bool(found["values"].isfinite().all()):
            raise ScoreSDEError(f"bits/dim are not finite from event {self.share.indices[first]} on")
        return Part({name: value.cpu() for name, value in found.items() if self.latents or name != "latent"})

    def _exact(self) -> Callable[[Tensor], Tensor] | None:
        """The target's own log density, in float64."""
        if self.target is None:
            return None
        precise = self.target.to("cpu", torch.float64)
        return lambda x: precise.log_prob(x.cpu().double()).to(x.device)

    def joined(self, parts: Sequence[Part]) -> Measurement:
        """Concatenate the measurements of all batches."""
        return join([Measurement(**part.tensors) for part in parts])

    def summarise(self, parts: Sequence[Part]) -> Row:
        all_of_it = self.joined(parts)
        cost = {"events": all_of_it.nfe.shape[1], "nfe": float(all_of_it.nfe.double().mean())}
        return self.found([mean("bits_per_dim", all_of_it.bits.per_image, "bits/dim")], parts, **cost)


@attrs.frozen(eq=False)
class Draw(Measure):
    """Samples, kept for all evaluators."""

    name, stated = "samples", ("sampler", "n", "batch_size", "seed", "known")

    plan: Plan
    sampler: Sampler
    n: int
    batch_size: int
    seed: int
    scale: Callable[[], float | None] = lambda: None
    """Returns the root mean square of true events, in the units of the data, None if unknown."""
    known: Mapping[str, Tensor] = {}
    """What is known of samples, in turn."""

    @property
    def count(self) -> int:
        return -(-self.n // self.batch_size)

    def measure(self, k: int, model: MeasuredModel) -> Part:
        first = k * self.batch_size
        count = min(self.batch_size, self.n - first)
        rows = torch.arange(first, first + count)
        score = model.score.given(**{name: value[rows % len(value)] for name, value in self.known.items()})
        drawn = sample(
            score, self.sampler, count,
            seed=self.seed, first=first, device=model.device, dtype=model.dtype, observe=model.observe,
        )  # fmt: skip
        return Part({"x": drawn.x.cpu()}, {"nfe": drawn.nfe, "seconds": drawn.seconds})

    def summarise(self, parts: Sequence[Part]) -> Row:
        nfe = sum(part.record["nfe"] * len(part.tensors["x"]) for part in parts)
        if lost := diverged(self.plan.units.decode(torch.cat([part.tensors["x"] for part in parts])), self.scale()):
            raise ScoreSDEError(lost)
        found = self.found([], parts, events=self.n, nfe=nfe / self.n)
        seconds = found["costs"][self.title]["seconds"]
        speed = {"seconds": seconds, "samples_per_second": self.n / seconds if seconds else None}
        caveat = self.sampler.caveat(self.plan.shape, smallest_batch(self.n, self.batch_size))
        warnings = {} if caveat is None else {"warnings": {"batch": caveat}}
        return {"nfe": nfe / self.n, **speed, **found, **warnings}

    def events(self, k: int, model: MeasuredModel) -> Tensor:
        """The samples of batch ``k``, in the units of the data."""
        return self.plan.units.decode(model.parts_of(self).load(k).tensors["x"].to(model.device))

    def collect(self, model: MeasuredModel) -> Tensor:
        """All samples (n, *shape), in the units of the data."""
        return torch.cat([self.events(k, model) for k in range(self.count)])
