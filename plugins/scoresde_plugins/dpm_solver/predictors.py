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
from scoresde_core.shapes import combine
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
from ..exponential import ExponentialMultistep
from ..grids import LogSNRGrid

Terms = tuple[tuple[Scalar, Tensor], ...]

SHORT = 15
"""DPM-Solver++ lowers its order at the end of runs of fewer steps, as its code documents and other libraries do. The
condition in that code says 15 in earlier versions and 10 in later ones."""

ETA_HELP = "share of the reverse SDE's noise: 0 deterministic, 1 the reverse SDE"
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


class _DPMSolverPP(ExponentialMultistep):
    """With two states the midpoint form, with three half of m_2: the second divided difference in place of D''."""

    def lowers(self, step: Step) -> bool:
        return self.lower_order_final and step.count < SHORT

    def moments(self, q: Scalar, exact: list[Scalar]) -> list[Scalar]:
        return [exact[0], 0.5 * exact[0]] if len(exact) == 2 else [*exact[:2], *(0.5 * m for m in exact[2:])]


@attrs.frozen
class DPMSolverPP3MPredictor(_DPMSolverPP):
    """2M with a term of second differences, which is alpha' c_2 D'' when exact (arXiv:2211.01095).

    The published code (and every copy of it) uses the second divided difference, an estimate of D''/2, in place of D'',
    and so adds half of the term: it is of order 2, with a small constant. ``corrected`` adds the whole term and is of
    order 3 (it is UniP-3); the published form is more accurate up to about 40 steps.
    """

    corrected: bool = param(False, "add the full second-order term instead of the published half")
    lower_order_final: bool = param(True, LOWER_FINAL_HELP)

    max_order = 3

    @property
    def order(self) -> float:  # type: ignore[override]
        """2 as published, 3 corrected."""
        return 3.0 if self.corrected else 2.0

    def moments(self, q: Scalar, exact: list[Scalar]) -> list[Scalar]:
        return exact if self.corrected and len(exact) == 3 else super().moments(q, exact)


@attrs.frozen
class DPMSolverPP2MSDEPredictor(_DPMSolverPP):
    """2M for the reverse SDE, midpoint form, with a share ``eta`` of its noise (arXiv:2211.01095, Section 5).

    x' = (sigma'/sigma) e^{-eta h} x + alpha' (1 - e^{-(1 + eta) h}) [D + h (D - D_prev) / (2 h_prev)]
    + sigma' sqrt(1 - e^{-2 eta h}) z. One evaluation per step. ``eta = 0`` is ``dpmpp_2m``, ``eta = 1`` the reverse
    SDE. The first step is of first order: with ``eta = 1``, ancestral sampling with the variance of the posterior.
    """

    variants: ClassVar = ({"eta": 0.0}, {"eta": 0.5})

    eta: float = param(1.0, ETA_HELP, and_(ge(0), le(1)))
    lower_order_final: bool = param(True, LOWER_FINAL_HELP)

    order = 2.0
    max_order = 2


@attrs.frozen
class DPMSolverPP3MSDEPredictor(_DPMSolverPP):
    """``dpmpp_3m`` for the reverse SDE, with a share ``eta`` of its noise, as in k-diffusion, where it comes from.

    From the third step on ``eta = 0`` is ``dpmpp_3m``. A step with two states is exact; no order falls at the end.
    """

    variants: ClassVar = ({"eta": 0.0}, {"eta": 0.5})

    eta: float = param(1.0, ETA_HELP, and_(ge(0), le(1)))

    order = 2.0
    max_order = 3

    def moments(self, q: Scalar, exact: list[Scalar]) -> list[Scalar]:
        return exact if len(exact) == 2 else super().moments(q, exact)


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
