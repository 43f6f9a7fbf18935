"""Particles, which make replacement exact (SMCDiff, Trippe et al. 2022, arXiv:2206.04119, Algorithm 1).

With c the known coefficients of a sample and rho = alpha / sigma, the known part of a noisy state is y_t = alpha c +
sigma eta_t. Replacement draws a new eta at every level. Here each sample has one path of the forward process, drawn
from the noisy end, that its K particles share:

    eta' = (rho / rho') eta + sqrt(1 - rho^2 / rho'^2) zeta,      zeta ~ N(0, I)

Given x_t and the path so far, y_t' has the ancestral density with D, the model's denoised known part, in place of c.
Apart from what all particles share, its logarithm is

    log w = -|lam (c - D) + zeta|^2 / 2,      lam^2 = rho'^2 - rho^2

and particles are resampled in proportion to the product of their weights. As noise is added to each coefficient
separately, p(u_t | the path down to t) = p_t(u_t | y_t) for the unknown part u, which is the law of the particles. Its
score is the unknown part of the model's score, so a corrector that moves only u leaves it invariant, and needs no
weight.

**Any predictor.** Let u move by the probability flow, and y along the path, whose quadratic variation is g^2 |dt|. The
change of log p_t(y, u), and of the volume filled by the flow of u, is then, up to what all particles share,

    score_y (dy - f y dt) - g^2 |score_y|^2 |dt| / 2

because the divergence of the flow of y cancels against the second-order term of dy. The same expression is the limit
of log w, which for u that moves by the reverse SDE is the ancestral density itself. So one weight serves
predictors with all of the noise, with none, and with a part of it.

As K and the number of steps grow, samples have the exact conditional law of the model, blurred by sigma(t_min).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor
from scoresde_core import DATA, Draw, Level, Noise, Observer, ScoreModel, Step, WrappedScore, param
from scoresde_core.noise import key
from scoresde_core.steps import Corrector, MultistepPredictor, Past, Predictor, advance, rows_of_past
from scoresde_run.sampling.condition import Condition, Loop, Observation
from ..conditions.known import Inpaint
from ..coordinates import noise_ratio, reaches_data
from .method import PosteriorMethod, Seen

THRESHOLD_HELP = "resample the particles if their effective number falls below this share of K"
_NOTHING = Level(0.0, 0.0, 0.0)
"""Imposing the known part at this level removes it."""


class Particles:
    """``number`` K states for each of B samples, rows (B K) of a state, and their log weights (B, K)."""

    def __init__(self, noise: Noise, number: int, threshold: float) -> None:
        self.noise, self.number, self.threshold = noise, number, threshold
        self.log_weights = torch.zeros(noise.count, number, device=noise.device, dtype=noise.dtype)
        self.owed: Any = 0.0  # the logarithm of what the next weights are divided by
        self.owners = torch.arange(noise.count, device=noise.device).repeat_interleave(number)

    def start(self, x: Tensor, model: ScoreModel, observe: Observer | None) -> tuple[Tensor, ScoreModel, Noise, Any]:
        """What a sampler runs on for all particles; the first of a sample starts at ``x``, the others at own draws."""
        noise, each = self.noise, slice(None, None, self.number)
        many = Noise(
            key(noise.seed, "particles"), noise.shape, noise.count * self.number,
            start=noise.start * self.number, device=noise.device, dtype=noise.dtype,
        )  # fmt: skip
        states = model.sde.prior.from_noise(many.draw("prior", "prior"))
        states[each] = x
        hear = None if observe is None else lambda done, total, x: observe(done, total, x[each])
        return states, model.select(self.owners), many, hear

    def weigh(self, log: Tensor) -> None:
        """Multiply the weights by exp ``log``, (B, K) or (B K,)."""
        self.log_weights = (self.log_weights + (log - self.owed).reshape(self.log_weights.shape)).log_softmax(1)

    def resample(self, step: int) -> Tensor:
        """Return the rows to keep, (B K,): systematic resampling where a sample's effective number is low."""
        weights = self.log_weights.softmax(1)
        poor = weights.square().sum(1, keepdim=True).reciprocal() < self.threshold * self.number
        order = torch.arange(self.number, device=weights.device)
        picked = _at(weights, (order + self._chance(step)) / self.number)
        self.log_weights = torch.where(poor, 0.0, self.log_weights)
        return self._rows(torch.where(poor, picked, order))

    def chosen(self) -> Tensor:
        """Return one row per sample, (B,), in proportion to the weights."""
        return self._rows(_at(self.log_weights.softmax(1), self._chance("last")))

    def parted(self, x: Tensor) -> Tensor:
        """``x`` (B K, ...) as (B, K, ...)."""
        return x.reshape(-1, self.number, *x.shape[1:])

    def _chance(self, step: int | str) -> Tensor:
        return self.noise.uniform(step, "resample").flatten(1)[:, :1].contiguous()  # (B, 1)

    def _rows(self, index: Tensor) -> Tensor:
        return (self.owners[:: self.number, None] * self.number + index).flatten()


def _at(weights: Tensor, chance: Tensor) -> Tensor:
    """Return the particles in whose share of [0, 1) the chances (B, n) fall, for weights (B, K)."""
    return torch.searchsorted(weights.cumsum(1), chance, right=True).clamp_max(weights.shape[1] - 1)


@attrs.frozen
class SMCDiff(PosteriorMethod):
    """The exact conditional law for ``inpaint``, ``colorize``, ``linear`` and the like, by K particles per sample.

    It costs K times the evaluations; samples stay independent. ``rounds`` moves the particles again after resampling,
    which separates copies; this matters most for predictors without noise.
    """

    condition: Condition = param(attrs.Factory(Inpaint), "known part: inpaint, colorize, linear, ...")
    particles: int = param(16, "particles per sample, K", ge(1))
    threshold: float = param(0.5, THRESHOLD_HELP, and_(ge(0), le(1)))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if getattr(self.condition, "noise", 0):
            raise ValueError("particles need a known part without noise: set noise=0, or use the condition itself")

    def given(self, known: Observation) -> "ParticleObservation":
        if not known.acts_on_state:
            raise ValueError(f"{type(self.condition).__name__} changes the score only: it needs no particles")
        return ParticleObservation(known, self.particles, self.threshold)


@attrs.frozen(eq=False)
class ParticleObservation(Observation):
    """The observation ``known``, with ``particles`` states per sample."""

    known: Observation
    particles: int
    threshold: float = 0.5

    def rows(self, start: int, count: int) -> "ParticleObservation":
        return attrs.evolve(self, known=self.known.rows(start, count))

    def to(self, x: Tensor) -> "ParticleObservation":
        return attrs.evolve(self, known=self.known.to(x))

    def impose(self, x: Tensor, level: Level, noise: Draw | None = None) -> Tensor:
        return self.known.impose(x, level, noise)

    def drive(self, loop: Loop, x: Tensor, model: ScoreModel, noise: Noise) -> Tensor:
        """Run the loop on all particles, and return one per sample, in proportion to its weight."""
        run = _Particles(self, noise)
        sampler = loop.wrapped(partial(_Move, run, loop.rounds), partial(_Correct, run))
        states, *rest = run.start(x, self.known.guide(model), loop.observe)
        return sampler.run(run.impose(states, model.sde.float_level(model.sde.t_max), run.path), *rest)[run.chosen()]


class _Particles(Particles):
    """The particles of a run, and the paths of their samples."""

    def __init__(self, observation: ParticleObservation, noise: Noise) -> None:
        super().__init__(noise, observation.particles, observation.threshold)
        self.known, self.path = observation.known, noise.draw("prior", "condition")
        self.fresh = torch.zeros_like(self.path)

    def impose(self, x: Tensor, level: Level, noise: Tensor | None = None) -> Tensor:
        """Return ``x`` (B K, ...) with its known part at ``level``, under shared noise (B, ...), or none."""
        drawn = None if noise is None else lambda: noise
        every = torch.vmap(lambda state: self.known.impose(state, level, drawn), in_dims=1, out_dims=1)
        imposed: Tensor = every(self.parted(x)).flatten(0, 1)
        return imposed

    def free(self, x: Tensor) -> Tensor:
        return self.impose(x, _NOTHING)

    def advance(self, step: Step) -> None:
        keep = noise_ratio(step.next) / noise_ratio(step.now)
        self.fresh = self.noise.draw(step.index, "condition")
        self.path = keep * self.path + (1 - keep**2) ** 0.5 * self.fresh

    def judge(self, denoised: Tensor, step: Step) -> None:
        """Weigh each particle by the density of the path's next point, given its denoised state at ``step.now``."""
        rate = (noise_ratio(step.next) ** -2 - noise_ratio(step.now) ** -2) ** 0.5
        off = self.impose(denoised, DATA) - denoised
        fresh = self.known.impose(torch.zeros_like(self.fresh), Level(0.0, 0.0, 1.0), lambda: self.fresh)
        gap = self.parted(rate * off) + fresh.unsqueeze(1)
        self.weigh(-0.5 * gap.flatten(2).square().sum(2))


@attrs.frozen
class _Move(MultistepPredictor):
    """A predictor's step for all particles, followed by resampling according to the path."""

    run: _Particles
    rounds: int
    inner: Predictor

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        run, seen, before = self.run, Seen(model, x, step.now), self.run.path
        x, mean, past = advance(self.inner, x, step, seen, noise, past)
        if not reaches_data(step):
            run.advance(step)
            if not self.inner.idle:
                run.judge(seen.denoised(seen.x, seen.level), step)
                rows = run.resample(step.index)
                x, mean, past = x[rows], mean[rows], rows_of_past(past, rows)
        x = run.impose(x, step.next, run.path)
        for _ in range(self.rounds - 1):
            x = run.impose(step.transition_scale * x + step.transition_std * noise(), step.now, before)
            x, mean, past = advance(self.inner, x, step, model, noise, ())  # a state that was noised again has no past
            x = run.impose(x, step.next, run.path)
        return x, run.impose(mean, step.next), past


@attrs.frozen
class _Correct(Corrector):
    """A corrector of the unknown part given the known one: its score and noise are those of the unknown part."""

    run: _Particles
    inner: Corrector

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        if self.inner.idle:
            return x, x
        free = self.run.free
        x, mean = self.inner.correct(x, step, _Unknown(model, free), lambda: free(noise()))
        return self.run.impose(x, step.now, self.run.path), self.run.impose(mean, step.now)


class _Unknown(WrappedScore):
    """The unknown part of a model's score."""

    def __init__(self, model: ScoreModel, free: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self.free = free

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        return self.free(self.model.score(x, level))
