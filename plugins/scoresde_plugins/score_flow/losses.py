r"""Likelihood-weighted denoising score matching with importance-sampled times (arXiv:2101.09258, Section 4.3)."""

import attrs
from torch import Tensor
from scoresde_core import Draws, ScoreModel, denoising_error, level_of, param
from scoresde_core.score import in_frame
from ..coordinates import ENTRIES
from ..song2021.losses import ContinuousLoss
from .importance import importance_times, relative_weight, total_weight


@attrs.frozen
class ImportanceLoss(ContinuousLoss):
    r"""|sigma s + z|^2 at times of density p(t) = g^2 / (sigma^2 Z), for any Gaussian-path SDE.

    With one alpha and sigma an entry the density is that of the mean of g^2 / sigma^2, and entries have the weight of
    their own over the mean.

    Its expectation is (1 - t_min) / Z times that of ``dsm[weighting=likelihood]``, with far less variance. As
    published, the constant is left out; ``unbiased`` puts it back, so that the two losses can be compared. Published
    t_min: 1e-5 for VP, 1e-2 for sub-VP. (Z grows as log(1 / t_min), twice as fast for sub-VP, so the draws depend on
    t_min.)
    """

    serves = ENTRIES

    unbiased: bool = param(False, "multiply by Z / (1 - t_min), to estimate the loss at uniform times", kw_only=True)

    def skip(self, model: ScoreModel) -> str | None:
        """Refuse SDEs whose noise falls relative to the signal: they have no such density."""
        sde = model.sde
        try:
            total_weight(sde, self.t_min)
        except ValueError as error:
            return str(error)
        return super().skip(model)

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        sde = model.sde
        model, x = in_frame(model, x)
        t = importance_times(sde, draws.uniform(stratified=self.stratified), self.t_min)
        weight = 1.0 if sde.form == "scalar" else relative_weight(sde, t, x).to(x.dtype)
        error = denoising_error(model, level_of(sde, t, x), x, draws.normal(x), self.reduction, weight)
        return error * (total_weight(sde, self.t_min) / (sde.t_signal - self.t_min)) if self.unbiased else error
