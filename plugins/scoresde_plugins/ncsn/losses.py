r"""Denoising score matching over N noise scales (Song & Ermon 2019, arXiv:1907.05600, Eq. 5-6).

    L = E_i sigma_i^2 |s(x_i, i) + z / sigma_i|^2 = E_i |sigma_i s(x_i, i) + z|^2,   x_i = alpha_i x_0 + sigma_i z,

with i uniform over the N scales of the SDE's table (:meth:`scoresde_core.sde.SDE.discrete_level`). SMLD is the case
alpha_i = 1, DDPM the case alpha_i^2 + sigma_i^2 = 1: one formula, two tables.
"""

from abc import abstractmethod

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Draws, Loss, Reduction, ScoreModel, denoising_error, param
from scoresde_core.score import in_frame, spread
from scoresde_run import NetworkScore
from ..song2021.losses import REDUCTION_HELP, STRATIFIED_HELP


@attrs.frozen
class DiscreteLoss(Loss):
    """Base of losses |sigma_i s + z|^2 at a uniformly drawn entry of the SDE's table."""

    scales: int = param(1000, "number of noise scales N", ge(2))
    reduction: Reduction = param("half_sum", REDUCTION_HELP)
    stratified: bool = param(False, STRATIFIED_HELP)

    @abstractmethod
    def misfit(self, alpha: Tensor, sigma: Tensor) -> str | None:
        """Return what this loss needs that a table (float64, smallest noise first) lacks, or None."""

    def skip(self, model: ScoreModel) -> str | None:
        sde = model.sde
        name = type(self).__name__
        table = sde.discrete_level(torch.linspace(0, 1, self.scales, dtype=torch.float64), self.scales)
        alpha, sigma = torch.as_tensor(table.alpha), torch.as_tensor(table.sigma)
        if not bool((sigma > 0).all()):
            return f"{name} needs noise at all {self.scales} scales, but {sde} has none at t = 0: use dsm"
        reason = self.misfit(alpha, sigma)
        if reason:
            return f"{name} needs {reason}, but {sde} has another table: use dsm"
        if isinstance(model, NetworkScore) and model.discrete and model.scales != self.scales:
            return f"{name} has {self.scales} scales, but the network has {model.scales}: set scales={model.scales}"
        return None

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        sde = model.sde
        model, x = in_frame(model, x)
        u = draws.uniform(stratified=self.stratified)
        t = (u * self.scales).floor().clamp_max(self.scales - 1) / (self.scales - 1)
        level = spread(sde, sde.discrete_level(t, self.scales), x)
        return denoising_error(model, level, x, draws.normal(x), self.reduction)


@attrs.frozen
class SMLDLoss(DiscreteLoss):
    """|sigma_i s(x + sigma_i z, i) + z|^2 over N noise scales; published: half the sum over dimensions."""

    def misfit(self, alpha: Tensor, sigma: Tensor) -> str | None:
        kept = torch.allclose(alpha, torch.ones_like(alpha), rtol=0, atol=1e-6)
        return None if kept else "noise on unscaled data (alpha = 1)"
