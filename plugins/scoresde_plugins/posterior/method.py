r"""What posterior samplers share: the problem, and what a formula may ask about a state.

The problem is a condition that knows coefficients, c = Q x_0 + n z: a linear measurement in the basis of its singular
vectors (``conditions/known.py``); or y = A(x_0) + r z with an A that is not linear. A model gives D = E[x_0 | x_t], and
V = Cov[x_0 | x_t] = (sigma^2 / alpha) dD/dx_t. A method gives a ``shift`` E[x_0 | x_t, y] - D, times alpha / sigma^2
that of the score, or lets states ``settle``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import Draw, Level, Noise, ScoreModel, Step, WrappedScore, param
from scoresde_core.shapes import NUMBER
from scoresde_core.steps import MultistepPredictor, Past, Predictor, advance
from scoresde_run.sampling.condition import Condition, Loop, Observation
from ..conditions.known import KnownCoefficients, LinearMeasurement
from ..operators.mask import MaskOperator


class Look:
    """A state as a model sees it: ``off`` is c - Q D, ``own`` n^2; ``residual`` and ``variance`` the same of y."""

    def __init__(self, model: ScoreModel, x: Tensor, level: Level, observed: "Posterior") -> None:
        self.level, self.known, self._products = level, observed.known, observed.products
        with torch.set_grad_enabled(observed.method.differentiates):
            self.x = x.detach().requires_grad_(observed.method.differentiates)
            score = model.score(self.x, level)
            denoised = (self.x + level.sigma**2 * score) / level.alpha
            self._residual = self.known.residual(denoised)
        self.score, self.denoised, self.residual = score.detach(), denoised.detach(), self._residual.detach()
        noise, gain, zero = self.known.noise, self.known.gain, torch.zeros_like(self.residual)
        self.own = zero if noise is None else torch.where(self.known.known, noise.square(), 0.0)
        self.gain = zero + 1 if gain is None else gain
        self.off, self.variance = torch.where(self.known.known, self.residual / self.gain, 0.0), self.gain**2 * self.own

    def pull(self, y: Tensor) -> Tensor:
        """(dD/dx_t)^T A^T y, an event: one Jacobian product, which is counted."""
        self._products[0] += len(y)
        return torch.autograd.grad(self._residual, self.x, -y, retain_graph=True)[0]

    def covary(self, y: Tensor) -> Tensor:
        """V A^T y, an event: one Jacobian product."""
        return self.pull(y) * (self.level.sigma**2 / self.level.alpha)

    def fit(self, value: Any) -> Any:
        """A number, or one a row, in a shape that broadcasts against coefficients."""
        return value if isinstance(value, NUMBER) else value.reshape(-1, *[1] * (self.off.ndim - 1))

    def put(self, x: Tensor, c: Tensor) -> Tensor:
        """``x`` with the coefficients ``c`` where known."""
        return x + self.known.events(c - self.known.seen(x), x)

    def step(self, inner: Predictor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> Any:
        """A predictor's step: the state, its mean, the new past; ``std`` (n, 1, ...) times ``z`` is its noise."""
        x, z = self.x.detach(), torch.zeros_like(self.score)
        seen = Seen(model, x, step.now, self.score)
        ahead, mean, past = advance(inner, x, step, seen, lambda: z.copy_(noise()).clone(), past)
        scale = ((ahead - mean) * z).flatten(1).sum(1) / z.square().flatten(1).sum(1).clamp_min(1e-12)
        self.z, self.std = z, scale.reshape(-1, *[1] * (x.ndim - 1))
        return ahead, mean, past


@attrs.frozen
class PosteriorMethod(Condition):
    """Samples of the posterior of ``condition``, which knows coefficients, with noise or without."""

    condition: Condition = param(
        attrs.Factory(lambda: LinearMeasurement(MaskOperator(), 0.1)), "the problem: linear, inpaint or colorize"
    )
    differentiates = True  # whether it takes Jacobian products
    needs_linear = True  # whether it needs the singular vectors of A
    needs_noise = False
    settles = False  # whether it changes the state, and not the score

    def __attrs_post_init__(self) -> None:
        name, found = type(self).__name__, type(self.condition).__name__
        if not self.condition.needs_data or isinstance(self.condition, PosteriorMethod):
            raise ValueError(f"condition must know a part of each sample, as inpaint does, got {found}")
        if self.needs_noise and not getattr(self.condition, "noise", 0):
            raise ValueError(f"{name} divides by the noise of y, and {found} has none: give linear[noise=R], R > 0")
        if self.needs_linear and not getattr(self.condition, "linear", True):
            raise ValueError(f"{name} needs a linear operator, unlike {self.condition.operator}: take dps, dsg or tds")  # type: ignore[attr-defined]

    @property
    def mixes_channels(self) -> bool:  # type: ignore[override]
        return self.condition.mixes_channels

    def skip(self, shape: tuple[int, ...]) -> str | None:
        return self.condition.skip(shape)

    def observe(self, x: Tensor) -> Observation:
        if reason := self.skip(tuple(x.shape[1:])):
            raise ValueError(reason)
        return self.given(self.condition.observe(x))

    def given(self, known: Observation) -> Observation:
        """The observation of known coefficients, such as ``condition.given(y, shape)`` of a measurement ``y``."""
        if not isinstance(known, KnownCoefficients):
            raise ValueError(f"{type(self).__name__} needs linear, inpaint or colorize, not {type(known).__name__}")
        return Posterior(known, self)

    def guide(self, model: ScoreModel, observed: "Posterior") -> ScoreModel:
        """The conditional score model."""
        return model if self.settles else GuidedScore(model, observed, self.shift)

    def skip_loop(self, loop: Loop) -> str | None:
        """Why it cannot act in ``loop``, or None."""
        return None

    def drive(self, observed: "Posterior", loop: Loop, x: Tensor, model: ScoreModel, noise: Noise) -> Tensor:
        """Run ``loop`` from the latent ``x``, as an observation does."""
        if self.settles:
            loop = attrs.evolve(loop, sampler=loop.wrapped(partial(_Settled, observed), lambda corrector: corrector))
        return Observation.drive(observed, loop, x, model, noise)

    def shift(self, look: Look) -> Tensor:
        """E[x_0 | x_t, y] - D, an event."""
        raise NotImplementedError

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        """The state and its mean at ``step.next``, given those of the predictor and a look at ``step.now``."""
        raise NotImplementedError


@attrs.frozen(eq=False)
class Posterior(Observation):
    """What a ``method`` knows of samples; ``products`` [0] is the number of Jacobian products, counted by the row."""

    known: KnownCoefficients
    method: PosteriorMethod
    products: list[int] = attrs.field(factory=lambda: [0])
    acts_on_state = False

    def rows(self, start: int, count: int) -> "Posterior":
        return attrs.evolve(self, known=self.known.rows(start, count))

    def to(self, x: Tensor) -> "Posterior":
        return attrs.evolve(self, known=self.known.to(x))

    def guide(self, model: ScoreModel) -> ScoreModel:
        return self.method.guide(model, self)

    def drive(self, loop: Loop, x: Tensor, model: ScoreModel, noise: Noise) -> Tensor:
        return self.method.drive(self, loop, x, model, noise)

    def skip(self, loop: Loop) -> str | None:
        active = [isinstance(part, Predictor) for part in loop.steps.values() if not part.idle]
        if self.method.settles and active != [True]:
            name = f"{type(self.method).__name__} acts after every step of a predictor"
            return f"{name} and gives correctors no conditional score: take pc with a predictor and corrector=none"
        return self.method.skip_loop(loop) or super().skip(loop)


class GuidedScore(WrappedScore):
    """A score moved by ``shift``, a function of a look."""

    def __init__(self, model: ScoreModel, observed: Posterior, shift: Callable[[Look], Tensor]) -> None:
        super().__init__(model)
        self.observed, self.shift = observed, shift

    def select(self, index: Tensor) -> ScoreModel:
        known = self.observed.known.select(index.to(self.observed.known.values.device))
        return self.part(model=self.model.select(index), observed=attrs.evolve(self.observed, known=known))

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        look = Look(self.model, x, level, self.observed)
        return look.score + self.shift(look) * (level.alpha / level.sigma**2)


@attrs.frozen
class _Settled(MultistepPredictor):
    observed: Posterior
    inner: Predictor

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        look = Look(model, x, step.now, self.observed)
        ahead, mean, past = look.step(self.inner, step, model, noise, past)
        return (*self.observed.method.settle(look, step, ahead, mean, noise), past)


class Seen(WrappedScore):
    """A model that caches its score at ``x`` and ``level``, or is given it."""

    def __init__(self, model: ScoreModel, x: Tensor, level: Level, score: Tensor | None = None) -> None:
        super().__init__(model)
        self.x, self.level, self.remembered = x, level, score

    def select(self, index: Tensor) -> ScoreModel:
        return self.model.select(index)

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        if x is not self.x or level is not self.level:
            return self.model.score(x, level)
        self.remembered = self.model.score(x, level) if self.remembered is None else self.remembered
        return self.remembered
