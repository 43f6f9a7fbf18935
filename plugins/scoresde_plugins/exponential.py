r"""Multistep methods that integrate denoised states exactly in lambda, with any part of the reverse SDE's noise.

With D_j = E[x_0 | x] at the last levels, noise of variance eta times that of the reverse SDE, and h = lambda' - lambda,

    x' = (sigma'/sigma) k x + alpha' sum_j w_j D_j + sigma' sqrt(1 - k^2) z,      k = e^{-eta h},      q = (1 + eta) h

The weights integrate the polynomial through the D_j: in v, from 0 at ``now`` to 1 at ``next``, their moments are

    sum_j w_j v_j^n = m_n = q int_0^1 e^{-q (1 - v)} v^n dv,      m_0 = 1 - e^{-q},      m_n = 1 - n m_{n-1} / q

For a constant D the step is exact in law. The weak order is at most 2 with noise, whose path within a step no weight
knows; in short runs the larger error of the polynomial hides it. Methods differ by their moments alone: with two states
m_0 / 2 or q / 2 for m_1 keeps the order. A corrector also uses the state at the end of the step, once the next step has
evaluated it, with the same noise: it costs nothing, and moves the state by its difference to the predictor.
"""

from collections.abc import Sequence
from itertools import zip_longest

from torch import Tensor
from scoresde_core import Draw, Level, MultistepPredictor, Past, Scalar, ScoreModel, Step
from scoresde_core.shapes import shift
from .coordinates import (
    ENTRIES,
    blend,
    expm1,
    log_snr,
    noise_ratio,
    power_weights,
    reaches_data,
    remember,
    settle,
    usable_order,
)
from .grids import LogSNRGrid


class ExponentialMultistep(MultistepPredictor):
    """One evaluation a step, of an order that rises from 1 with the past; the last step, to the data, is of order 1."""

    max_order: int
    corrector_order: int = 0
    eta: float = 0.0
    lower_order_final: bool = False

    grid = LogSNRGrid()
    serves = ENTRIES

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0

    @property
    def first_order(self) -> float:  # type: ignore[override]
        """That of the error of one step of first order, plus one with a corrector."""
        return 2.0 + (self.corrector_order > 0)

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        now, ahead, denoised = step.now, step.next, model.denoised(x, step.now)
        if past and self.corrector_order:
            x = self._correct(x, step, denoised, past)
        past = remember(past, step, denoised, max(self.max_order, self.corrector_order - 1))
        if reaches_data(step):
            return denoised, denoised, past
        order = usable_order(step, len(past), self.max_order, lower_final=self.lowers(step))
        keep = settle(step, self.keep(now, ahead), 0.0)
        weights = self.weights([level for level, _ in past[:order]], ahead)
        first, *more = ((ahead.alpha * settle(step, w, float(not j)), past[j][1]) for j, w in enumerate(weights))
        mean = blend(ahead.sigma / now.sigma * keep, x, *first, *more)
        if not self.stochastic:
            return mean, mean, past
        return shift(mean, ahead.sigma * (1 - keep * keep) ** 0.5, noise()), mean, past

    def _correct(self, x: Tensor, step: Step, denoised: Tensor, past: Past) -> Tensor:
        """Add the difference of corrector and predictor of the step that led here, in which its start cancels."""
        now, levels = step.now, [level for level, _ in past]
        left = step.count - step.index + 1 if self.lowers(step) else len(past)
        predict = self.weights(levels[: min(self.max_order, left)], now)
        *correct, last = self.weights([*levels[: min(self.corrector_order - 1, left)], now], now)
        change = (now.alpha * (c - p) for c, p in zip_longest(correct, predict, fillvalue=0.0))
        return blend(1.0, x, now.alpha * last, denoised, *zip(change, (value for _, value in past), strict=False))

    def lowers(self, step: Step) -> bool:
        """Whether the order falls at the end of this run, to the number of steps left."""
        return self.lower_order_final

    def share(self, now: Level) -> Scalar:
        """The eta of a step from the level ``now``."""
        return self.eta

    def keep(self, now: Level, ahead: Level) -> Scalar:
        """k, the share of the noise that stays; anything in a step to the data."""
        kept: Scalar = (noise_ratio(ahead) / noise_ratio(now)) ** self.share(now)
        return kept

    def weights(self, levels: Sequence[Level], ahead: Level) -> list[Scalar]:
        """The weights of the denoised states at ``levels``, in the step from the first of these to ``ahead``."""
        start = log_snr(levels[0])
        h = log_snr(ahead) - start
        q = (1 + self.share(levels[0])) * h
        moments = self.moments(q, exponential_moments(q, len(levels)))
        return power_weights([(log_snr(level) - start) / h for level in levels], moments)

    def moments(self, q: Scalar, exact: list[Scalar]) -> list[Scalar]:
        """The moments of the method; by default the ``exact`` ones."""
        return exact


def exponential_moments(q: Scalar, count: int) -> list[Scalar]:
    """m_0, m_1, ..., ``count`` of them."""
    moments = [-expm1(-q)]
    for n in range(1, count):
        moments.append(1 - n * moments[-1] / q)
    return moments
