r"""UniPC (arXiv:2302.04867, data prediction): a multistep predictor, and a corrector without evaluations of its own.

With h = lambda' - lambda, differences d_k = (D_k - D) / r_k of denoised states at lambda + r_k h, and B(h) either
-h (bh1) or e^{-h} - 1 (bh2), both steps are

    x' = (sigma'/sigma) x + alpha' (1 - e^{-h}) D - alpha' B(h) sum_k rho_k d_k,      sum_k rho_k r_k^{q-1} = b_q,

    b_q = q! psi_{q+1} / B(h),   psi_1 = e^{-h} - 1,   psi_{q+1} = -psi_q / h - 1 / q!

A single rho is 1/2 for either B; several solve the system, in which B cancels: bh1 and bh2 differ in orders 1 and 2.
The predictor UniP uses only the past (r_k < 0), the corrector UniC also the new denoised state at ``next`` (r = 1). The
following step needs that state anyway, so the correction is made once it has been evaluated.
"""

from typing import ClassVar, Literal

import attrs
from attrs.validators import and_, ge, le
from torch import Tensor
from scoresde_core import Draw, Level, MultistepPredictor, Past, Scalar, ScoreModel, Step, param
from ..coordinates import (
    ENTRIES,
    blend,
    denoised_step,
    expm1,
    log_snr,
    noise_ratio,
    power_weights,
    reaches_data,
    remember,
    usable_order,
)
from ..grids import LogSNRGrid

Entries = tuple[tuple[Level, Tensor], ...]
Terms = tuple[tuple[Scalar, Tensor], ...]


@attrs.frozen
class UniPCPredictor(MultistepPredictor):
    """UniP of up to ``max_order``, each step corrected by UniC once its end is evaluated; one evaluation per step.

    The order starts at 1 and rises with the past, which holds the denoised states of the last levels and the weights
    with which the last step used them. UniC is added as its difference to UniP, in which the state before the last step
    cancels: that state is not stored, and a move by a corrector between the two steps is kept. The last step, to the
    data, is of first order and has no evaluation at its end to correct it.

    As published, the order falls at the end of a run of any length: 2 in the last step but one, 1 in the last. (Where
    the authors' code denoises, it does so after N - 1 such steps, so that its step to ``t_min`` is of order 1.) Their
    default is ``bh1``, that of later libraries ``bh2``.
    """

    variants: ClassVar = ({"max_order": 1}, {"max_order": 2}, {"max_order": 2, "variant": "bh1"})

    max_order: int = param(3, "highest order of the predictor; UniC adds one", and_(ge(1), le(3)))
    variant: Literal["bh1", "bh2"] = param("bh2", "B(h) = -h, or e^-h - 1")
    correct: bool = param(True, "apply UniC")
    lower_order_final: bool = param(True, "lower the order at the end to the number of steps left")

    grid = LogSNRGrid()
    stochastic = False
    serves = ENTRIES

    @property
    def first_order(self) -> float:  # type: ignore[override]
        """That of the error of one step of first order, plus one with UniC."""
        return 2.0 + self.correct

    @property
    def order(self) -> float:  # type: ignore[override]
        """``max_order``, plus one with UniC; where the order is lowered at the end, 2 for a run that ends in noise."""
        return float(self.max_order + self.correct)

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        """Correct the step that led here, then predict the next; the past is (entries, UniC's difference)."""
        denoised = model.denoised(x, step.now)
        entries, correction = past or ((), None)
        if correction is not None:
            weight, terms = correction
            x = blend(1.0, x, weight, denoised, *terms)
        entries = remember(entries, step, denoised, self.max_order)
        order = usable_order(step, len(entries), self.max_order, lower_final=self.lower_order_final)
        if reaches_data(step):
            return denoised, denoised, (entries, None)
        update, correction = self._update(step, entries[:order])
        x = denoised_step(x, step, denoised, *update)
        return x, x, (entries, correction)

    def _update(self, step: Step, entries: Entries) -> tuple[Terms, tuple[Scalar, Terms] | None]:
        """Return UniP's terms beyond the first-order step, divided by alpha', and UniC's difference to UniP."""
        if len(entries) == 1 and not self.correct:
            return (), None
        start, h = log_snr(entries[0][0]), log_snr(step.next) - log_snr(entries[0][0])
        ratios = [(log_snr(level) - start) / h for level, _ in entries[1:]]
        scale = -h if self.variant == "bh1" else noise_ratio(step.next) / noise_ratio(step.now) - 1
        predict = [-scale * rho for rho in _weights(ratios, h, scale)]
        update = _terms(predict, ratios, entries)
        if not self.correct:
            return update, None
        *correct, last = (-scale * rho for rho in _weights([*ratios, 1.0], h, scale))
        moved = _terms([c - p for c, p in zip(correct, predict, strict=True)], ratios, entries)
        # The difference of the new state is D_new - D: its second term is added to the weight of D.
        ahead = step.next.alpha
        terms = tuple((ahead * c, tensor) for c, tensor in (*moved, (-last, entries[0][1])))
        return update, (ahead * last, terms)


def _weights(ratios: list[Scalar], h: Scalar, scale: Scalar) -> list[Scalar]:
    """Return rho_k for nodes r_k; 1/2 for a single node, as in the paper, of the same order for any B(h) ~ h."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    right, psi, factorial = [], expm1(-h), 1
    for q in range(1, len(ratios) + 1):
        factorial *= q
        psi = -psi / h - 1 / factorial
        right.append(factorial * psi / scale)
    return power_weights(ratios, right)


def _terms(weights: list[Scalar], ratios: list[Scalar], entries: Entries) -> Terms:
    """Return sum_k w_k (D_k - D) / r_k as weights of the states."""
    shares = [w / r for w, r in zip(weights, ratios, strict=True)]
    if not shares:
        return ()
    return (-sum(shares), entries[0][1]), *((c, tensor) for c, (_, tensor) in zip(shares, entries[1:], strict=True))
