r"""DEIS and iPNDM (arXiv:2204.13902): Adams-Bashforth on the predicted noise, with exactly integrated polynomials.

In ``y = x / alpha`` and ``s = sigma / alpha`` the probability flow is dy/ds = eps. The noise at the last k levels is
interpolated by a polynomial, which is integrated over the step:

    y' = y + sum_j w_j eps_j,      w_j = int_s^s' l_j ds

with l_j the Lagrange polynomials in s (variant rhoab) or in t (variant tab). One evaluation per step.
The past of these methods holds noises only, so a corrector may move the state between two steps.
"""

from abc import abstractmethod
from typing import ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor
from scoresde_core import Draw, Level, MultistepPredictor, Past, Scalar, ScoreModel, Step, param
from ..coordinates import ENTRIES, NODES, SHARES, noise_ratio, noise_step, power_weights, remember, usable_order
from ..grids import KarrasGrid

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights for equal steps, newest first, of orders 1 to 4."""


class NoiseMultistep(MultistepPredictor):
    """y' = y + sum_k w_k eps_k over the noises of the last levels, with one evaluation per step."""

    max_order: int

    stochastic = False
    serves = ENTRIES

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        past = remember(past, step, model.noise(x, step.now), self.max_order)
        levels = [level for level, _ in past[: usable_order(step, len(past), self.max_order)]]
        x = noise_step(x, step, *((w, eps) for w, (_, eps) in zip(self.weights(step, levels), past, strict=False)))
        return x, x, past

    @abstractmethod
    def weights(self, step: Step, levels: list[Level]) -> list[Scalar]:
        """Return the weights of the noises at ``levels``, newest first; their sum is s' - s."""


@attrs.frozen
class DEISPredictor(NoiseMultistep):
    """Adams-Bashforth over the noises of the last ``max_order`` levels, with exact integrals: 4 is tAB3 or rhoAB3.

    The order starts at 1, a step of DDIM, and rises with the past; the last step, to the data, is of first order. Order
    4 shows only in long runs. The authors use tAB3 for VP, ``max_order=4``, on the grid ``quadratic``; on ``mnist_mfa``
    with few evaluations ``karras`` gives smaller distances, most of all under VE.
    """

    variants: ClassVar = ({"max_order": 1}, {"max_order": 2})

    max_order: int = param(3, "number of levels whose noise is used", and_(ge(1), le(4)))
    variant: Literal["tab", "rhoab"] = param("tab", "polynomials in t, or in rho = sigma / alpha")

    grid = KarrasGrid()

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(self.max_order)

    def weights(self, step: Step, levels: list[Level]) -> list[Scalar]:
        now, length = noise_ratio(step.now), noise_ratio(step.next) - noise_ratio(step.now)
        if len(levels) == 1:
            return [length]
        if self.variant == "tab":
            return _weights_in_t(step, levels)
        nodes = [(noise_ratio(level) - now) / length for level in levels]
        return power_weights(nodes, [length / (q + 1) for q in range(len(nodes))])


@attrs.frozen
class IPNDMPredictor(NoiseMultistep):
    """Adams-Bashforth's weights for equal steps on the predicted noise, on any grid (improved PNDM).

    y' = y + (s' - s) (55 eps - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24 for ``max_order = 4``. No useful grid has equal
    steps in s = sigma / alpha, so the order of convergence is 2 for ``max_order`` 2 to 4; at 3 to 10 evaluations it is
    still among the best on trained networks. One evaluation per step. The order starts at 1 and rises with the past;
    the last step, to the data, is of first order.
    """

    variants: ClassVar = ({"max_order": 1}, {"max_order": 2})

    max_order: int = param(4, "number of levels whose noise is used", and_(ge(1), le(4)))

    grid = KarrasGrid()

    @property
    def order(self) -> float:  # type: ignore[override]
        """2, or 1 for a single level."""
        return float(min(self.max_order, 2))

    def weights(self, step: Step, levels: list[Level]) -> list[Scalar]:
        length = noise_ratio(step.next) - noise_ratio(step.now)
        return [length * w for w in ADAMS_BASHFORTH[len(levels) - 1]]


def _weights_in_t(step: Step, levels: list[Level]) -> list[Scalar]:
    """Return the integrals over s of the Lagrange polynomials in t, with s(t) from the SDE."""
    nodes = [(step.now.t - level.t) / step.dt for level in levels]
    length = noise_ratio(step.next) - noise_ratio(step.now)
    # s(t) is smooth within a step. The nodes are the first dimension, before those of a step whose numbers are tensors.
    dt = torch.as_tensor(step.dt, dtype=torch.float64)
    u, share = (part.to(dt.device).reshape(-1, *[1] * dt.ndim) for part in (NODES, SHARES))
    if step.sde.form == "diagonal":
        ratios = torch.stack([torch.as_tensor(noise_ratio(step.level(step.now.t - v * step.dt))) for v in u.tolist()])
        u, share = (part.to(ratios.device).reshape(-1, *[1] * (ratios.ndim - 1)) for part in (u, share))
    else:
        ratios = torch.as_tensor(noise_ratio(step.sde.level(step.now.t - u * dt)))
    above = share * (ratios - noise_ratio(step.next))
    # Integration by parts: int u^q ds = -q int u^(q-1) (s - s') du, with u from 0 to 1.
    inner = [-q * (above * u ** (q - 1)).sum(0) for q in range(1, len(nodes))]
    return power_weights(nodes, [length, *(inner if above.ndim > 1 else map(float, inner))])
