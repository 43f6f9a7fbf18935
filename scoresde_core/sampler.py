"""Samplers: the loop from the prior to a sample; and :func:`sample`, which runs one over any number of samples."""

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from .components import parameters
from .errors import UsageError
from .noise import Noise
from .score import ScoreModel, in_batches
from .sde import SDE
from .steps import Method, unserved

Observer = Callable[[int, int, Tensor], Any]
"""Called after every step with (steps done, total steps, state)."""


class Sampler(Method):
    """A loop, whose parameters may be components (predictor, corrector, grid, ...)."""

    in_turn: bool = True
    """Whether it takes the steps of its components one after another."""

    @abstractmethod
    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        """A latent ``x`` (B, ...) of ``model.sde`` at t = 1 -> samples like ``x``; calls ``observe`` after each step.

        To evaluate some of the samples, use :meth:`ScoreModel.select`.
        """

    @property
    def uses(self) -> frozenset[str]:
        """The names of the parameters that have an effect in this configuration."""
        return frozenset(parameter.name for parameter in parameters(type(self)))

    def skip_model(self, model: ScoreModel) -> str | None:
        """Why this sampler, with its components, cannot use a model with what it knows, or None."""
        return None


def skip(sampler: Sampler, sde: SDE, shape: tuple[int, ...]) -> str | None:
    """Why this combination cannot work on events of ``shape``, or None."""
    mean = getattr(sde.prior, "mean", None)
    if sde.form == "scalar" and isinstance(mean, tuple) and (not shape or len(mean) != shape[0]):
        return f"the prior has {len(mean)} channel means, the data has shape {shape}: give one mean per channel"
    return unserved(sampler, sde) or sde.skip(shape) or sde.fault() or sampler.skip(sde)


@attrs.frozen
class Samples:
    """The samples (n, *shape) of a run, function evaluations per sample, synchronised seconds, calls of the model."""

    x: Tensor
    nfe: float
    seconds: float
    calls: int


@torch.no_grad()
def sample(
    model: ScoreModel, sampler: Sampler, n: int, *, seed: int = 0, first: int = 0, batch_size: int | None = None,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, latent: Tensor | None = None,
    observe: Observer | None = None,
) -> Samples:  # fmt: skip
    """Draw ``n`` samples of a model's process, from ``latent`` (n, *model.shape) at t = 1 or from the prior.

    Data of each sample in the model, such as its class, are those of these ``n`` in order. The result is samples
    ``first .. first + n`` of the run with this ``seed``, for any ``batch_size`` and ``first``, unless a corrector
    couples the batch: :meth:`Sampler.caveat` says what small batches do then, :meth:`Sampler.decoupled` avoids it.
    """
    for what, value in (("number of samples", n), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"the {what} must be at least 1, got {value}")
    missing = [name for name in ("sde", "shape") if not hasattr(model, name)]
    if missing:
        lacking = " and no ".join(missing)
        raise UsageError(f"this {type(model).__name__} has no {lacking}: give it when you make the model")
    if reason := skip(sampler, model.sde, model.shape) or sampler.skip_model(model):
        raise UsageError(reason)
    whole, model = model, model.informed(n, seed, first).framed()
    before, started, parts = (whole.rows, whole.calls), now(device), []
    for start, known, index in in_batches(model, torch.arange(n), batch_size):
        noise = Noise(seed, model.shape, len(index), start=first + start, device=device, dtype=dtype)
        frame = known.sde.frame
        if latent is None:
            x = known.sde.prior.from_noise(noise.draw("prior", "prior"))
        else:
            x = latent[start : start + len(index)].to(device=device, dtype=dtype)
            x = frame.enter(x, known.sde.t_max) if frame else x
        x = sampler.run(x, known, noise, observe)
        parts.append(frame.drop(x) if frame else x)
    rows, calls = whole.rows - before[0], whole.calls - before[1]
    return Samples(torch.cat(parts), rows / n, now(device) - started, calls)


def now(device: torch.device | str) -> float:
    """A clock that waits for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
