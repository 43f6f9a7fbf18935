r"""Continuous denoising score matching (Song et al. 2021, arXiv:2011.13456, Eq. 7).

    L = E_{t ~ U[t_min, t_max]} lambda(t) |s(x_t, t) + z / sigma|^2

    lambda = sigma^2   the papers' weighting: |sigma s + z|^2, of similar size at every t
    lambda = g^2       likelihood weighting (arXiv:2101.09258, Theorem 1): with a half sum over dimensions the expected
                       loss bounds the KL divergence from the data, up to a constant of the data

Under the first weighting gradients have a similar scale at all times; under the second those near t_min dominate,
because g^2 / sigma^2 grows as 1/t: ``importance`` is the same loss with less variance.
"""

from collections.abc import Collection
from typing import Literal

import attrs
from attrs.validators import and_, gt, lt
from torch import Tensor
from scoresde_core import SDE, Draws, Loss, Reduction, ScoreModel, denoising_error, level_of, param
from scoresde_core.score import in_frame
from scoresde_core.shapes import expand
from scoresde_run import NetworkScore
from ..coordinates import ENTRIES, LINEAR

REDUCTION_HELP = "over a sample's dimensions: their mean, or half their sum"
STRATIFIED_HELP = "draw one time from each of B equally likely intervals, instead of B independent times"


@attrs.frozen
class ContinuousLoss(Loss):
    """Base of losses over continuous times."""

    t_min: float = param(1e-5, "smallest time that the model is trained at", and_(gt(0), lt(1)))
    reduction: Reduction = param("mean", REDUCTION_HELP)
    stratified: bool = param(False, STRATIFIED_HELP)

    def times(self, sde: SDE, draws: Draws) -> Tensor:
        """Times (B,), uniform on [t_min, t_max], float64."""
        return self.t_min + draws.uniform(stratified=self.stratified) * (sde.t_max - self.t_min)

    def skip(self, model: ScoreModel) -> str | None:
        if isinstance(model, NetworkScore) and model.discrete:
            why = f"{type(self).__name__} draws continuous times, but the network knows {model.scales} noise scales"
            return f"{why}: use the loss ddpm (VP) or smld (VE), or the network's label time or sigma"
        return None


@attrs.frozen
class DenoisingScoreMatchingLoss(ContinuousLoss):
    """|sigma s + z|^2 or, with likelihood weighting, g^2 |s + z / sigma|^2 at uniform times."""

    weighting: Literal["sigma", "likelihood"] = param(
        "sigma", "lambda(t): sigma^2, or g^2 for likelihood", kw_only=True
    )

    @property
    def serves(self) -> Collection[str]:  # type: ignore[override]
        """All linear processes, but g^2 / sigma^2 is no number where coefficients are matrices."""
        return LINEAR if self.weighting == "sigma" else ENTRIES

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        sde = model.sde
        model, x = in_frame(model, x)
        t = self.times(sde, draws)
        weight = 1.0 if self.weighting == "sigma" else expand((sde.diffusion(t) / sde.sigma(t)).square(), x).to(x.dtype)
        return denoising_error(model, level_of(sde, t, x), x, draws.normal(x), self.reduction, weight)
