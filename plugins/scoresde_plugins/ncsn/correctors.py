"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, Alg. 1), as a corrector at each noise level."""

from typing import Literal

import attrs
from attrs.validators import and_, ge, gt, le
from scoresde_core import param
from ..song2021.correctors import LangevinCorrector


@attrs.frozen
class AnnealedLangevinCorrector(LangevinCorrector):
    """x + eps score + sqrt(2 eps) z with eps = 2 a (snr sigma(t))^2: the step size depends on the noise level alone.

    ``a`` is the squared scale of the SDE's chain over the step, as in ``langevin``.

    Published settings with ``predictor=none``: snr 0.316 and 100 steps (NCSN), 0.176 and 5 steps (NCSNv2, CIFAR-10).
    """

    snr: float = param(0.16, "step size relative to the noise level", and_(gt(0), le(1e6)))
    n_steps: int = param(1, "Langevin steps at each noise level", ge(1))
    norm: Literal["level"] = attrs.field(default="level", init=False, repr=False)
