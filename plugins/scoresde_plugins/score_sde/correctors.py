r"""Langevin dynamics with a step size set by a signal-to-noise ratio (Song et al. 2021, arXiv:2011.13456, Alg. 4, 5).

    eps = 2 a (snr |z| / |score|)^2,      mean = x + eps score,      x = mean + sqrt(2 eps) z

``a`` is the squared signal kept by the SDE's chain over the step, (1 + phi)^2: 1 for VE, 1 - beta_i for VP, and what
the same rule gives for any other SDE (the published code has no sub-VP corrector).
"""

from typing import Literal, Self

import attrs
import torch
from attrs.validators import ge, gt
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.noise import Draw
from scoresde_core.schedule import Step
from scoresde_core.score import ScoreModel
from scoresde_core.shapes import diffuse, expand, shift
from scoresde_core.steps import Corrector

# Where the score vanishes (a zero-initialised network), the ratio |z| / |score| has no meaning: it is held below this
# many times what noise of the state's own scale would give.
_LARGEST_RATIO = 1e3


@attrs.frozen
class LangevinCorrector(Corrector):
    """``n_steps`` Langevin steps; norms are means over the batch as published, or each sample's own.

    With batch-mean norms a sample depends a little on its batch; ``norm=sample`` is the paper's formula for one sample.
    Published settings: snr 0.16 (VE, CIFAR-10), 0.075 (256 pixels), 0.01 (VP).
    """

    snr: float = param(0.16, "signal-to-noise ratio that sets the step size", gt(0))
    n_steps: int = param(1, "Langevin steps at each noise level", ge(1))
    norm: Literal["batch", "sample"] = param("batch", "norms averaged over the batch, or each sample's own")

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """``n_steps`` steps at ``step.now``."""
        mean = x
        scale = (step.now.alpha**2 + step.now.sigma**2) ** 0.5
        for _ in range(self.n_steps):
            score, z = model.score(x, step.now), noise()
            ratio = self._norm(z, x) / self._norm(score, x).clamp_min(1e-30)
            size = (self.snr * ratio.clamp_max(_LARGEST_RATIO * scale)) ** 2 * (2 * (1 + step.discrete_drift) ** 2)
            mean = shift(x, size, score)
            x = diffuse(mean, (2 * size).sqrt(), z)
        return x, mean

    def _norm(self, value: Tensor, x: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(value.flatten(1), dim=1)
        return norms.mean() if self.norm == "batch" else expand(norms, x)

    def decoupled(self) -> Self:
        """With each sample's own norms."""
        return attrs.evolve(self, norm="sample")

    def shrunk(self, factor: float) -> Self:
        """The step size goes with the square of snr."""
        return attrs.evolve(self, snr=self.snr / factor**0.5)


@attrs.frozen
class NoneCorrector(Corrector):
    """x, unchanged: leaves the work to the predictor."""

    idle = True

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """The state as it is."""
        return x, x
