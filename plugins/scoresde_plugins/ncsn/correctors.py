"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, Alg. 1), as a corrector at each noise level."""

from typing import ClassVar, Self

import attrs
from attrs.validators import and_, ge, gt, le
from torch import Tensor
from scoresde_core import Corrector, Draw, ScoreModel, Step, param
from scoresde_core.shapes import diffuse, shift
from ..coordinates import ENTRIES


@attrs.frozen
class AnnealedLangevinCorrector(Corrector):
    """x + eps score + sqrt(2 eps) z with eps = 2 a (snr sigma(t))^2: the step size depends on the noise level alone.

    ``a`` is the squared scale of the SDE's chain over the step, as in ``langevin``.

    Published settings with ``predictor=none``: snr 0.316 and 100 steps (NCSN), 0.176 and 5 steps (NCSNv2, CIFAR-10).
    """

    variants: ClassVar = ({"n_steps": 2},)

    snr: float = param(0.16, "step size relative to the noise level", and_(gt(0), le(1e6)))
    n_steps: int = param(1, "Langevin steps at each noise level", ge(1))

    serves = ENTRIES

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        size = 2 * (1 + step.discrete_drift) ** 2 * (self.snr * step.now.sigma) ** 2
        mean = x
        for _ in range(self.n_steps):
            mean = shift(x, size, model.score(x, step.now))
            x = diffuse(mean, (2 * size) ** 0.5, noise())
        return x, mean

    def shrunk(self, factor: float) -> Self:
        """Divide snr by sqrt(factor): the step size is proportional to snr^2."""
        return attrs.evolve(self, snr=self.snr / factor**0.5)
