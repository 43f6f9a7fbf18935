r"""The truth that the kit holds components against: two distributions in closed form, and an SDE of its own.

Written from the formulas alone, and never from a plugin's code. For data ``x_0 ~ sum_k w_k N(m_k, s^2 I)`` and
``x = alpha x_0 + sigma eps``, with ``v = alpha^2 s^2 + sigma^2`` and ``r_k`` the posterior probabilities,

    p(x) = sum_k w_k N(x; alpha m_k, v I),        score(x) = (alpha sum_k r_k(x) m_k - x) / v

:class:`Watched` is the score model of these: it counts what is evaluated beside the counter of the contract.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any

import attrs
import torch
from torch import Tensor

from ..components import param
from ..noise import Noise
from ..sampler import Observer, Sampler
from ..schedule import Schedule, Step
from ..score import ScoreModel
from ..sde import DATA, SDE, Level
from ..target import Estimate, Target
from .suite import Subject


@attrs.frozen
class ConstantRateSDE(SDE):
    """dx = -b x / 2 dt + sqrt(b) dw: alpha and sigma alone, the rest as the contract derives it."""

    rate: float = param(12.0, "b")

    def alpha(self, t: Tensor) -> Tensor:
        """e^{-b t / 2}."""
        return torch.exp(-0.5 * self.rate * t)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - e^{-b t})."""
        return torch.sqrt(-torch.expm1(-self.rate * t))


@attrs.frozen
class Mixture(Target):
    """``means`` (K,) are those of every coordinate of a component: its mean is m_k (1, 1, ..., 1)."""

    weights: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-1.0, 1.0)
    std: float = 0.3
    event: tuple[int, ...] = (2,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event's."""
        return self.event

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Exact draws."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(torch.tensor(self.weights), n, replacement=True, generator=generator)
        means = torch.tensor(self.means)[chosen].reshape(n, *[1] * len(self.event))
        return means + self.std * torch.randn(n, *self.event, generator=generator)

    def log_prob(self, x: Tensor, level: Level = DATA) -> Tensor:
        """log p."""
        logits, variance = self._logits(x, level)
        return torch.logsumexp(logits, 1) - 0.5 * prod(self.event) * torch.log(2 * math.pi * variance)

    def score(self, x: Tensor, level: Level = DATA) -> Tensor:
        """grad log p."""
        logits, variance = self._logits(x, level)
        centre = logits.softmax(1) @ x.new_tensor(self.means)
        column = (-1, *[1] * (x.ndim - 1))
        score: Tensor = (level.alpha * centre.reshape(column) - x) / variance.reshape(column)
        return score

    def entropy(self) -> Estimate:
        """By many draws."""
        surprise = -self.log_prob(self.sample(2**15, seed=1).double())
        return Estimate(float(surprise.mean()), float(surprise.std()) / math.sqrt(len(surprise)))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance."""
        size = prod(self.event)
        weights, means = torch.tensor(self.weights).double(), torch.tensor(self.means).double()
        mean = (weights * means).sum()
        spread = (weights * (means - mean).square()).sum()
        return mean.expand(size), self.std**2 * torch.eye(size, dtype=torch.float64) + spread

    def modes(self) -> Tensor:
        """The weights."""
        return torch.tensor(self.weights, dtype=torch.float64)

    def responsibilities(self, x: Tensor) -> Tensor:
        """r_k of clean data."""
        return self._logits(x, DATA)[0].softmax(1)

    def coordinate(self, level: Level) -> tuple[float, float]:
        """Mean and variance of one coordinate at a level of floats."""
        mean, covariance = self.moments()
        return level.alpha * float(mean[0]), level.alpha**2 * float(covariance[0, 0]) + level.sigma**2

    def _logits(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """log w_k - |x - alpha m_k|^2 / 2v, (B, K), and v (B,) or ()."""
        alpha, sigma = (
            torch.as_tensor(value, dtype=x.dtype, device=x.device).flatten() for value in (level.alpha, level.sigma)
        )
        variance = alpha**2 * self.std**2 + sigma**2
        centres = alpha.unsqueeze(1) * x.new_tensor(self.means)
        distances = (x.flatten(1).unsqueeze(1) - centres.unsqueeze(2)).square().sum(2)
        return x.new_tensor(self.weights).log() - distances / (2 * variance.unsqueeze(1)), variance


def gaussian(mean: float = 0.5, std: float = 0.5, event: tuple[int, ...] = (1,)) -> Mixture:
    """N(mean, std^2 I), whose score is affine."""
    return Mixture((1.0,), (mean,), std, event)


class Watched(ScoreModel):
    """The exact score of a target, with counts of its own: the contract's counter may be walked around."""

    def __init__(self, target: Any) -> None:
        self.target, self.evaluations, self.evaluated = target, 0, 0

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """The target's score."""
        self.evaluations += 1
        self.evaluated += len(x)
        score: Tensor = self.target.score(x, level)
        return score


@attrs.frozen
class FlowSampler(Sampler):
    """Euler steps of the probability flow, evenly spaced in log(sigma / alpha), and a denoised end."""

    steps: int = param(100, "number of steps")

    def run(self, x: Tensor, model: ScoreModel, sde: SDE, noise: Noise, observe: Observer | None = None) -> Tensor:
        """dx = (f x - g^2 score / 2) dt."""
        schedule = Schedule(sde, times_between(sde, self.steps, last=0.0))
        for step in schedule.steps:
            x = x - (step.drift_rate * x - 0.5 * step.diffusion**2 * model.score(x, step.now)) * step.dt
        return model.denoised(x, schedule[-1].next)


class Silent(ScoreModel):
    """A score of zero everywhere, as a network has it before its training."""

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """0."""
        return torch.zeros_like(x)


def sdes(subject: Subject) -> list[tuple[str, SDE]]:
    """The SDEs that steps are tried on: the kit's own, and every one of the registry."""
    return [("the kit's own SDE", ConstantRateSDE()), *subject.partners("sdes")]


def pairs(subject: Subject) -> list[tuple[str, Any, SDE]]:
    """Every variant of a predictor or corrector with every SDE that it does not refuse."""
    return [
        (f"{variant} with {label}", step, sde)
        for variant, step in subject.variants()
        for label, sde in sdes(subject)
        if step.skip(sde) is None
    ]


def times_between(sde: SDE, steps: int, last: float = 0.5) -> Tensor:
    """(steps + 1,) times from 1 down to where sigma / alpha is ``last`` or least, evenly spaced in its logarithm.

    A smooth grid on which an SDE with a wide range of noise is as well resolved as one without.
    """
    ends = torch.tensor([1.0, sde.t_min], dtype=torch.float64)
    first, lowest = _log_ratio(sde, ends).tolist()
    wanted = torch.linspace(first, max(math.log(last) if last else lowest, lowest), steps + 1, dtype=torch.float64)
    low, high = torch.full_like(wanted, math.log(sde.t_min)), torch.zeros_like(wanted)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = _log_ratio(sde, middle.exp()) > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    times = (0.5 * (low + high)).exp()
    times[0] = 1.0
    return times


def by_row(sde: SDE, times: Tensor, rows: int, rank: int) -> tuple[Step, list[Step]]:
    """One step whose numbers are columns (rows, 1, ...), row k being step k of a schedule; and those steps apart."""
    steps = Schedule(sde, times).steps[:rows]

    def column(read: Any) -> Tensor:
        return torch.tensor([read(step) for step in steps], dtype=torch.float64).reshape(-1, *[1] * rank)

    def levels(which: str) -> Level:
        return Level(*(column(lambda s, n=n: getattr(getattr(s, which), n)) for n in ("t", "alpha", "sigma")))

    apart = ("index", "count", "now", "next", "sde", "_memory")
    numbers = [field.name for field in attrs.fields(Step) if field.name not in apart]
    fields: dict[str, Any] = {name: column(lambda s, n=name: getattr(s, n)) for name in numbers}
    stacked = Step(index=0, count=len(times) - 1, now=levels("now"), next=levels("next"), sde=sde, **fields)
    return stacked, [attrs.evolve(step, index=0, memory={}) for step in steps]


def are_like(x: Tensor, moved: tuple[Tensor, Tensor], label: str) -> None:
    """A state and its mean are finite and of the shape and dtype of ``x``."""
    for name, value in zip(("state", "mean"), moved, strict=True):
        found, expected = (tuple(value.shape), value.dtype), (tuple(x.shape), x.dtype)
        assert found == expected, f"{label}: the {name} is {found}, expected {expected}, as x is"
        assert bool(value.isfinite().all()), f"{label}: the {name} is not finite"


def are_close(found: tuple[Tensor, Tensor], alone: list[tuple[Tensor, Tensor]], label: str) -> None:
    """A state and its mean are, to rounding, those of the rows each by itself."""
    for name, value, rows in zip(("state", "mean"), found, zip(*alone, strict=True), strict=True):
        gap = float((value - torch.cat(rows)).abs().max())
        assert gap <= 1e-9 * float(value.abs().max()), f"{label} the {name} is off by {gap:.3g}"


def _log_ratio(sde: SDE, t: Tensor) -> Tensor:
    return sde.sigma(t).log() - sde.alpha(t).log()
