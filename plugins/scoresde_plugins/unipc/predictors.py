r"""UniPC (arXiv:2302.04867, data prediction): a multistep predictor, and a corrector without evaluations of its own.

With h = lambda' - lambda, differences d_k = (D_k - D) / r_k of denoised states at lambda + r_k h, and B(h) either
-h (bh1) or e^{-h} - 1 (bh2), both steps are

    x' = (sigma'/sigma) x + alpha' (1 - e^{-h}) D - alpha' B(h) sum_k rho_k d_k

A single rho is 1/2 for either B; several make the polynomial's integral exact, and B cancels: bh1 and bh2 differ in
orders 1 and 2. These are the steps of :mod:`..exponential`. The predictor UniP uses only the past (r_k < 0), the
corrector UniC also the new denoised state at ``next`` (r = 1).
"""

from typing import ClassVar, Literal

import attrs
from attrs.validators import and_, ge, le
from scoresde_core import Scalar, param
from ..exponential import ExponentialMultistep


@attrs.frozen
class UniPCPredictor(ExponentialMultistep):
    """UniP of up to ``max_order``, each step corrected by UniC once its end is evaluated; one evaluation per step.

    The order starts at 1 and rises with the past, which holds the denoised states of the last levels. UniC is added as
    its difference to UniP, in which the state before the last step cancels: a move by a corrector between the two steps
    is kept. The last step, to the data, is of first order and has no evaluation at its end to correct it.

    As published, the order falls at the end of a run of any length: 2 in the last step but one, 1 in the last. (Where
    the authors' code denoises, it does so after N - 1 such steps, so that its step to ``t_min`` is of order 1.) Their
    default is ``bh1``, that of later libraries ``bh2``.
    """

    variants: ClassVar = ({"max_order": 1}, {"max_order": 2}, {"max_order": 2, "variant": "bh1"})

    max_order: int = param(3, "highest order of the predictor; UniC adds one", and_(ge(1), le(3)))
    variant: Literal["bh1", "bh2"] = param("bh2", "B(h) = -h, or e^-h - 1")
    correct: bool = param(True, "apply UniC")
    lower_order_final: bool = param(True, "lower the order at the end to the number of steps left")

    @property
    def corrector_order(self) -> int:  # type: ignore[override]
        return self.max_order + 1 if self.correct else 0

    @property
    def order(self) -> float:  # type: ignore[override]
        """``max_order``, plus one with UniC; where the order is lowered at the end, 2 for a run that ends in noise."""
        return float(self.max_order + self.correct)

    def moments(self, q: Scalar, exact: list[Scalar]) -> list[Scalar]:
        return [exact[0], 0.5 * (q if self.variant == "bh1" else exact[0])] if len(exact) == 2 else exact
