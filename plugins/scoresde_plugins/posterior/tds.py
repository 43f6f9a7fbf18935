r"""TDS (Wu et al. 2023, arXiv:2306.17775, Algorithm 1): particles with twisted proposals, right as K grows.

h_t(x) = N(y; A(D(x)), r^2 + s^2 / (1 + s^2) A A^T), its diagonal, s = sigma / alpha, is the likelihood of y at the end.
A predictor's step m + std z is moved by std^2 grad log h_t(x) to x', and weighed by

    h_t'(x') N(x'; m, std^2) / (h_t(x) N(x'; m + std^2 grad log h_t(x), std^2))

which holds for any predictor. Without noise in steps nothing is moved, and few particles are near y.
"""

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor
from scoresde_core import Draw, Noise, ScoreModel, Step, param
from scoresde_core.steps import MultistepPredictor, Past, Predictor, rows_of_past
from scoresde_run.sampling.condition import Loop
from ..coordinates import reaches_data
from .method import Look, Posterior, PosteriorMethod
from .smcdiff import THRESHOLD_HELP, Particles


def _log(residual: Tensor, variance: Tensor | float) -> Tensor:
    """log N(residual; 0, variance) of each row, but for a constant."""
    return -0.5 * (residual.square() / variance).flatten(1).sum(1)


@attrs.frozen
class TDS(PosteriorMethod):
    """The posterior by K weighed particles per sample, at K times the evaluations; a Jacobian product each."""

    needs_linear, needs_noise, settles = False, True, True
    particles: int = param(16, "particles per sample, K", ge(1))
    threshold: float = param(0.5, THRESHOLD_HELP, and_(ge(0), le(1)))

    def skip_loop(self, loop: Loop) -> str | None:
        return "TDS weighs every step, and takes it once: take rounds=1" if loop.rounds > 1 else None

    def drive(self, observed: Posterior, loop: Loop, x: Tensor, model: ScoreModel, noise: Noise) -> Tensor:
        run, r2 = Particles(noise, self.particles, self.threshold), self.condition.noise**2  # type: ignore[attr-defined]
        many = attrs.evolve(observed, known=observed.known.select(run.owners))
        sampler = loop.wrapped(lambda inner: _Twisted(many, run, r2, inner), lambda corrector: corrector)
        states = sampler.run(*run.start(x, model, loop.observe))
        run.weigh(_log(many.known.residual(states), r2))
        return states[run.chosen()]


@attrs.frozen
class _Twisted(MultistepPredictor):
    """A predictor's step for all particles, after these are weighed and resampled."""

    observed: Posterior
    run: Particles
    r2: float
    inner: Predictor

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        run, look = self.run, Look(model, x, step.now, self.observed)
        a2, s2 = look.level.alpha**2, look.level.sigma**2
        variance = self.r2 + look.gain**2 * look.fit(s2 / (a2 + s2))
        log, slope = _log(look.residual, variance), look.pull(look.residual / variance)
        run.weigh(log)
        rows = run.resample(step.index)
        look.x, look.score, slope = look.x[rows], look.score[rows], slope[rows]
        ahead, mean, past = look.step(self.inner, step, model, noise, rows_of_past(past, rows))
        std = torch.zeros_like(look.std) if reaches_data(step) else look.std
        move = std**2 * slope
        run.owed = log[rows] + ((std * look.z + move / 2) * slope).flatten(1).sum(1)
        return ahead + move, mean + move, past
