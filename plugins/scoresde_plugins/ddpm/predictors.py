r"""Predictors that step through the posterior of the forward chain.

With the transition ``x_t = a x_s + G z``, ``s < t``, Tweedie's formula gives the posterior mean of ``x_s`` as
``(x_t + G^2 score) / a`` for any Gaussian path. Its variance given x_0 is ``G^2 sigma_s^2 / sigma_t^2``.
"""

from collections.abc import Collection
from typing import ClassVar

import attrs
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Draw, Predictor, ScoreModel, Step, param
from scoresde_core.shapes import combine, diffuse, solve
from ..coordinates import ENTRIES, LINEAR, denoised_step
from ..grids import UniformGrid


@attrs.frozen
class AncestralSamplingPredictor(Predictor):
    """mean = (x + G^2 score) / a, x = mean + b z (arXiv:2006.11239, Eq. 11; arXiv:2011.13456, Eq. 4 and 47).

    ``b`` is the SDE's ``backward_std``: as published, ``sqrt(beta_i)`` for VP and that of the posterior for VE; other
    SDEs use the exact posterior. ``ddim[eta=1]`` is ancestral sampling with the posterior variance for VP.
    """

    grid = UniformGrid()
    serves = LINEAR

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        scale, variance = step.transition_scale, step.transition_std**2
        mean = combine(1 / scale, x, solve(scale, variance), model.score(x, step.now))
        return diffuse(mean, step.backward_std, noise()), mean


@attrs.frozen
class DDIMPredictor(Predictor):
    """x = alpha' D + sqrt(sigma'^2 - b^2) eps + b z, with b = eta sigma' sqrt(1 - (alpha sigma' / (alpha' sigma))^2).

    D is the denoised state and eps the predicted noise (Song et al. 2021, arXiv:2010.02502, Eq. 12 and 16, written for
    any Gaussian path). ``eta = 0`` is deterministic, ``eta = 1`` draws from the posterior of the forward chain.
    """

    variants: ClassVar = ({"eta": 0.5}, {"eta": 1.0})

    eta: float = param(0.0, "share of the posterior's noise: 0 deterministic, 1 ancestral", ge(0))

    grid = UniformGrid()

    def __attrs_post_init__(self) -> None:
        if self.eta > 1:
            raise ValueError(f"eta must be at most 1, got {self.eta}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0

    @property
    def serves(self) -> Collection[str]:  # type: ignore[override]
        """Matrices as well without noise, whose share has no single direction."""
        return ENTRIES if self.stochastic else LINEAR

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        now, ahead = step.now, step.next
        if step.sde.form == "blocks":  # sigma' of the flow is no root of its square alone
            x = denoised_step(x, step, model.denoised(x, now))
            return x, x
        eps = model.noise(x, now)
        share = (1 - (now.alpha * ahead.sigma / (ahead.alpha * now.sigma)) ** 2) ** 0.5
        std = self.eta * ahead.sigma * share
        direction = (ahead.sigma**2 - std**2) ** 0.5 if self.stochastic else ahead.sigma
        # alpha' D = (alpha' / alpha) (x - sigma eps), combined into one update of x and eps.
        ratio = ahead.alpha / now.alpha
        mean = combine(ratio, x, direction - ratio * now.sigma, eps)
        return (diffuse(mean, std, noise()), mean) if self.stochastic else (mean, mean)
