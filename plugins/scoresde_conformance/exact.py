"""Ground truth for the suite: a distribution in closed form, two SDEs, and simple steps and samplers.

Written from the formulas only, never from a plugin's code. For data ``x_0 ~ sum_k w_k N(m_k, s^2 I)`` and
``x = alpha x_0 + sigma eps``, with ``v = alpha^2 s^2 + sigma^2`` and ``r_k`` the posterior probabilities,

    p(x) = sum_k w_k N(x; alpha m_k, v I),        score(x) = (alpha sum_k r_k(x) m_k - x) / v

:class:`Watched` is the score model of these; it counts evaluations besides the counter of the contract.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import DATA, SDE, Draw, Estimate, Level, Noise, Observer, Sampler, Schedule, Step, Target, param
from scoresde_core.score import ExactScore, ScoreModel
from scoresde_core.steps import Corrector, Past, Predictor, advance


@attrs.frozen
class ConstantRateSDE(SDE):
    """dx = -b x / 2 dt + sqrt(b) dw: alpha, sigma and their inverse; the contract derives the rest."""

    rate: float = param(12.0, "b")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.rate * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.rate * t))

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        """The inverse of (sigma / alpha)^2 = e^{b t} - 1; bisection would be the slowest part of many steps."""
        t = torch.log1p((2 * log_noise_ratio.double()).exp()) / self.rate
        return t.clamp(t_min or self.t_min, 1)


@attrs.frozen
class GrowingSDE(SDE):
    """dx = sigma(t) sqrt(2 log r) dw with sigma(t) = sigma_0 r^t: the signal keeps its scale, the noise explodes."""

    smallest: float = param(0.05, "sigma_0")
    ratio: float = param(400.0, "r")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.smallest * torch.exp(t * math.log(self.ratio))

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        t = (log_noise_ratio.double() - math.log(self.smallest)) / math.log(self.ratio)
        return t.clamp(t_min or self.t_min, 1)


@attrs.frozen
class StraightSDE(SDE):
    """alpha = 1 - t, sigma = t: the signal vanishes at t = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        return log_noise_ratio.double().sigmoid().clamp(t_min or self.t_min, 1)


@attrs.frozen
class Mixture(Target):
    """A mixture whose component k has the mean m_k (1, 1, ..., 1), with m_k in ``means`` (K,)."""

    weights: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-1.0, 1.0)
    std: float = 0.3
    event: tuple[int, ...] = (2,)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.event

    def sample(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(torch.tensor(self.weights), n, replacement=True, generator=generator)
        means = torch.tensor(self.means)[chosen].reshape(n, *[1] * len(self.event))
        return means + self.std * torch.randn(n, *self.event, generator=generator)

    def log_prob(self, x: Tensor, level: Level = DATA) -> Tensor:
        logits, variance = self._logits(x, level)
        return torch.logsumexp(logits, 1) - 0.5 * prod(self.event) * torch.log(2 * math.pi * variance)

    def score(self, x: Tensor, level: Level = DATA) -> Tensor:
        logits, variance = self._logits(x, level)
        centre = logits.softmax(1) @ x.new_tensor(self.means)
        column = (-1, *[1] * (x.ndim - 1))
        return (level.alpha * centre.reshape(column) - x) / variance.reshape(column)

    def entropy(self) -> Estimate:
        surprise = -self.log_prob(self.sample(2**15, seed=1).double())
        return Estimate(float(surprise.mean()), float(surprise.std()) / math.sqrt(len(surprise)))

    def moments(self) -> tuple[Tensor, Tensor]:
        size = prod(self.event)
        weights, means = torch.tensor(self.weights).double(), torch.tensor(self.means).double()
        mean = (weights * means).sum()
        spread = (weights * (means - mean).square()).sum()
        return mean.expand(size), self.std**2 * torch.eye(size, dtype=torch.float64) + spread

    def modes(self) -> Tensor | None:
        return torch.tensor(self.weights, dtype=torch.float64) if len(self.weights) > 1 else None

    def responsibilities(self, x: Tensor) -> Tensor:
        return self._logits(x, DATA)[0].softmax(1)

    def coordinate(self, level: Level) -> tuple[float, float]:
        """Return mean and variance of one coordinate at a level of floats."""
        mean, covariance = self.moments()
        alpha, sigma = float(level.alpha), float(level.sigma)
        return alpha * float(mean[0]), alpha**2 * float(covariance[0, 0]) + sigma**2

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


class Watched(ExactScore):
    """The exact score of a target, with its own counts, since the contract's counter can be bypassed."""

    def __init__(self, target: Any, sde: SDE | None = None) -> None:
        super().__init__(target, sde or ConstantRateSDE())
        self.evaluations, self.evaluated = 0, 0

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        self.evaluations += 1
        self.evaluated += len(x)
        return super().evaluate(x, level)

    def evaluate_denoised(self, x: Tensor, level: Level) -> Tensor:
        self.evaluations += 1
        self.evaluated += len(x)
        return super().evaluate_denoised(x, level)


class Scaled(Watched):
    """The exact score times a factor; 0 gives the score of an untrained network."""

    def __init__(self, target: Any, factor: float, sde: SDE | None = None) -> None:
        super().__init__(target, sde)
        self.factor = factor

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        return self.factor * super().evaluate(x, level)


@attrs.frozen
class FlowSampler(Sampler):
    """Euler steps of the probability flow, evenly spaced in log(sigma / alpha), and a final denoising."""

    steps: int = param(100, "number of steps")

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        sde = model.sde
        schedule = Schedule(sde, times_between(sde, self.steps, last=0.0))
        for step in schedule.steps:
            x = x - (step.drift_rate * x - 0.5 * step.diffusion**2 * model.score(x, step.now)) * step.dt
        return model.denoised(x, schedule[-1].next)


@attrs.frozen
class PlainPredictor(Predictor):
    """Euler-Maruyama on the reverse SDE."""

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        mean = x - (step.drift_rate * x - step.diffusion**2 * model.score(x, step.now)) * step.dt
        return mean + step.diffusion * step.dt**0.5 * noise(), mean


@attrs.frozen
class PlainCorrector(Corrector):
    """A Langevin step of a tenth of the variance of unit-variance data."""

    size: float = param(0.1, "step size over alpha^2 + sigma^2")

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        size = self.size * (step.now.alpha**2 + step.now.sigma**2)
        mean = x + size * model.score(x, step.now)
        return mean + (2 * size) ** 0.5 * noise(), mean


@attrs.frozen
class StillCorrector(Corrector):
    """Returns the state unchanged."""

    idle = True

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        return x, x


@attrs.frozen
class PlainSampler(Sampler):
    """A corrector and a predictor at evenly spaced times from t_max to t_min; returns the mean of the last step."""

    predictor: Predictor = param(PlainPredictor(), "reverse-time step")
    corrector: Corrector = param(StillCorrector(), "MCMC at each level")
    steps: int = param(6, "number of steps")

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        sde = model.sde
        times = torch.linspace(sde.t_max, sde.t_min, self.steps, dtype=torch.float64)
        mean, past = x, Past()
        for k, step in enumerate(Schedule(sde, torch.cat([times, times.new_zeros(1)])).steps):
            x, _ = self.corrector.correct(x, step, model, noise.at(k, "corrector"))
            x, mean, past = advance(self.predictor, x, step, model, noise.at(k, "predictor"), past)
            if observe is not None:
                observe(k + 1, self.steps, x)
        return mean

    def skip(self, sde: SDE) -> str | None:
        return self.predictor.skip(sde) or self.corrector.skip(sde)

    def decoupled(self) -> PlainSampler:
        return attrs.evolve(self, corrector=self.corrector.decoupled())


def directions_of(target: Target, count: int = 8) -> Tensor:
    """Return (count, D) random unit vectors, float64, for moments of all coordinates at once."""
    return torch.nn.functional.normalize(torch.randn(count, prod(target.shape), dtype=torch.float64))


def times_between(sde: SDE, steps: int, last: float = 0.5) -> Tensor:
    """Return (steps + 1,) times from t_signal to where sigma / alpha is ``last`` or least, evenly spaced in its log."""
    ends = torch.tensor([sde.t_signal, sde.t_min], dtype=torch.float64)
    first, lowest = sde.log_noise_ratio(ends).tolist()
    wanted = torch.linspace(first, max(math.log(last) if last else lowest, lowest), steps + 1, dtype=torch.float64)
    times = SDE.time_at(sde, wanted)  # the contract's bisection, whatever the SDE has in its place
    times[0] = sde.t_signal
    return times
