r"""DPM-Solver and DPM-Solver++: exponential integrators of the probability flow in lambda = log(alpha / sigma).

With D = E[x_0 | x] expanded around ``now`` as a polynomial in lambda, h = lambda' - lambda (arXiv:2211.01095):

    x' = (sigma'/sigma) x + alpha' sum_n c_n D^(n),      c_n = int_0^h e^{u - h} u^n / n! du,
    c_0 = 1 - e^{-h},      c_1 = h - c_0,      c_2 = h^2 / 2 - c_1

The multistep methods estimate the derivatives from denoised states of earlier levels, with one evaluation per step.
Their past holds denoised states only, so a corrector may move the state between two steps.
"""

from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor
from scoresde_core import Draw, MultistepPredictor, Past, Predictor, Scalar, ScoreModel, Step, param
from scoresde_core.shapes import combine, shift
from ..coordinates import (
    ENTRIES,
    LINEAR,
    denoised_step,
    expm1,
    log_snr,
    noise_ratio,
    noise_step,
    noise_step_to,
    reaches_data,
    remember,
    settle,
    usable_order,
)
from ..grids import LogSNRGrid

Terms = tuple[tuple[Scalar, Tensor], ...]

SHORT = 15
"""DPM-Solver++ lowers its order at the end of runs of fewer steps, as its code documents and other libraries do. The
condition in that code says 15 in earlier versions and 10 in later ones."""

LOWER_FINAL_HELP = f"in runs of fewer than {SHORT} steps, lower the order at the end to the number of steps left"


@attrs.frozen
class DPMSolver2Predictor(Predictor):
    """The midpoint rule in lambda: eps is evaluated again at s_m = sqrt(s s') (arXiv:2206.00927, Algorithm 1, r = 1/2).

    y_m = y + (s_m - s) eps(x),  y' = y + (s' - s) eps(x_m), in y = x / alpha and s = sigma / alpha.
    Two evaluations per step; one in the step to the data.
    """

    order = 2.0
    grid = LogSNRGrid()
    stochastic = False
    serves = ENTRIES

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        now, ahead = noise_ratio(step.now), noise_ratio(step.next)
        eps = model.noise(x, step.now)
        if not reaches_data(step):
            middle = step.at_noise_ratio((now * ahead) ** 0.5)
            halfway = noise_step_to(x, step, middle, (noise_ratio(middle) - now, eps))
            eps = settle(step, model.noise(halfway, middle), eps)
        x = noise_step(x, step, (ahead - now, eps))
        return x, x


@attrs.frozen
class DPMSolverPP2MPredictor(MultistepPredictor):
    """x' = (sigma'/sigma) x + alpha' (1 - e^{-h}) [D + h (D - D_prev) / (2 h_prev)] (arXiv:2211.01095, Algorithm 2).

    One evaluation per step; the first step and the last, to the data, are of first order.
    """

    lower_order_final: bool = param(True, LOWER_FINAL_HELP)

    order = 2.0
    grid = LogSNRGrid()
    stochastic = False
    serves = LINEAR

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        past = remember(past, step, model.denoised(x, step.now), 2)
        order = usable_order(step, len(past), 2, lower_final=self.lower_order_final and step.count < SHORT)
        if step.sde.form == "blocks":  # one step length for all variables, that of the grid's clock
            x = denoised_step(x, step, _ahead(step, past) if order > 1 else past[0][1])
        else:
            x = denoised_step(x, step, past[0][1], *(_slope(step, past) if order > 1 else ()))
        return x, x, past


@attrs.frozen
class DPMSolverPP3MPredictor(MultistepPredictor):
    """2M with a term of second differences, which is alpha' c_2 D'' when exact (arXiv:2211.01095).

    The published code (and every copy of it) uses the second divided difference, an estimate of D''/2, in place of D'',
    and so adds half of the term: it is of order 2, with a small constant. ``corrected`` adds the whole term and is of
    order 3 (it is UniP-3); the published form is more accurate up to about 40 steps.
    """

    corrected: bool = param(False, "add the full second-order term instead of the published half")
    lower_order_final: bool = param(True, LOWER_FINAL_HELP)

    grid = LogSNRGrid()
    stochastic = False
    serves = ENTRIES

    @property
    def order(self) -> float:  # type: ignore[override]
        """2 as published, 3 corrected."""
        return 3.0 if self.corrected else 2.0

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        past = remember(past, step, model.denoised(x, step.now), 3)
        order = usable_order(step, len(past), 3, lower_final=self.lower_order_final and step.count < SHORT)
        more: Terms = ()
        if order > 1:
            more = _slope(step, past) if order == 2 else self._curve(step, past)
        x = denoised_step(x, step, past[0][1], *more)
        return x, x, past

    def _curve(self, step: Step, past: Past) -> Terms:
        """Return the terms of first and second differences as weights of the three states."""
        (now, latest), (before, middle), (first, oldest) = past
        h = log_snr(step.next) - log_snr(now)
        r0 = (log_snr(now) - log_snr(before)) / h
        r1 = (log_snr(before) - log_snr(first)) / h
        phi2 = expm1(-h) / h + 1
        phi3 = (phi2 / h - 0.5) * (2 if self.corrected else 1)
        # D1 = u + r0 (u - v) / (r0 + r1), D2 = (u - v) / (r0 + r1), with u, v the two first divided differences.
        on_u = phi2 + (phi2 * r0 - phi3) / (r0 + r1)
        on_v = -(phi2 * r0 - phi3) / (r0 + r1)
        return (on_u / r0, latest), (on_v / r1 - on_u / r0, middle), (-on_v / r1, oldest)


@attrs.frozen
class DPMSolverPP2MSDEPredictor(MultistepPredictor):
    """2M for the reverse SDE, midpoint form, with a share ``eta`` of its noise (arXiv:2211.01095, Section 5).

    x' = (sigma'/sigma) e^{-eta h} x + alpha' (1 - e^{-(1 + eta) h}) [D + h (D - D_prev) / (2 h_prev)]
    + sigma' sqrt(1 - e^{-2 eta h}) z. One evaluation per step. ``eta = 0`` is ``dpmpp_2m``, ``eta = 1`` the reverse
    SDE. The first step is of first order: with ``eta = 1``, ancestral sampling with the variance of the posterior.
    """

    variants: ClassVar = ({"eta": 0.0}, {"eta": 0.5})

    eta: float = param(1.0, "share of the reverse SDE's noise: 0 deterministic, 1 the reverse SDE", and_(ge(0), le(1)))
    lower_order_final: bool = param(True, LOWER_FINAL_HELP)

    order = 2.0
    grid = LogSNRGrid()
    serves = ENTRIES

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        past = remember(past, step, model.denoised(x, step.now), 2)
        denoised, ahead = past[0][1], step.next
        if usable_order(step, len(past), 2, lower_final=self.lower_order_final and step.count < SHORT) > 1:
            (now, latest), (before, oldest) = past
            weight = 0.5 * (log_snr(ahead) - log_snr(now)) / (log_snr(now) - log_snr(before))
            weight = settle(step, weight, 0.0)
            denoised = combine(1 + weight, latest, -weight, oldest)
        # e^{-h} = s' / s needs no logarithm, and is 0 at the data.
        decay = noise_ratio(ahead) / noise_ratio(step.now)
        keep = decay**self.eta if self.eta else 1.0
        mean = combine(ahead.sigma / step.now.sigma * keep, x, ahead.alpha * (1 - decay * keep), denoised)
        if not self.stochastic:
            return mean, mean, past
        return shift(mean, ahead.sigma * (1 - keep * keep) ** 0.5, noise()), mean, past


def _ahead(step: Step, past: Past) -> Tensor:
    """Return D + h (D - D_prev) / (2 h_prev), with h of the process's clock."""
    (now, latest), (before, previous) = past[:2]
    times = torch.tensor([before.t, now.t, step.next.t], dtype=torch.float64)
    last, h = step.sde.log_noise_ratio(times).diff().tolist()
    return combine(1 + 0.5 * h / last, latest, -0.5 * h / last, previous)


def _slope(step: Step, past: Past) -> Terms:
    """Return the term (1 - e^{-h}) h (D - D_prev) / (2 h_prev) as weights of the two states."""
    (now, latest), (before, previous) = past[:2]
    h = log_snr(step.next) - log_snr(now)
    weight = -0.5 * expm1(-h) * h / (log_snr(now) - log_snr(before))
    return (weight, latest), (-weight, previous)
