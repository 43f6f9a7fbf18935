r"""EDM's loss (Karras et al. 2022, arXiv:2206.00364, Eq. 2 and Table 1), for any process with a network of any kind.

    L = E_s  lambda(s) |D(x; s) - x_0|^2,   log s ~ N(mean, std^2),   lambda = (s^2 + d^2) / (s d)^2

with s = sigma / alpha and d the standard deviation of the data. As D - x_0 = s (eps - E[eps | x]), the weight of the
denoising error is (s^2 + d^2) / d^2.
"""

import math

import attrs
from attrs.validators import gt
from torch import Tensor
from scoresde_core import Draws, ScoreModel, denoising_error, level_of, param
from scoresde_core.score import in_frame
from scoresde_run.models.parameterisation import SIGMA_DATA
from ..song2021.losses import ContinuousLoss


@attrs.frozen
class EDMLoss(ContinuousLoss):
    """lambda(s) |D - x_0|^2 at noise ratios of a log-normal law, cut off at those of ``t_min`` and t_max."""

    mean: float = param(-1.2, "mean of log(sigma / alpha)", kw_only=True)
    std: float = param(1.2, "standard deviation of log(sigma / alpha)", gt(0), kw_only=True)
    data: float = param(SIGMA_DATA, "standard deviation of the data", gt(0), kw_only=True)

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        sde, u = model.sde, draws.uniform(stratified=self.stratified)
        normal = math.sqrt(2) * (2 * u - 1).clamp(-1 + 1e-15, 1 - 1e-15).erfinv()
        model, x = in_frame(model, x)
        t = sde.time_at(self.mean + self.std * normal, self.t_min).clamp_max(sde.t_signal)
        level = level_of(sde, t, x)
        error = denoising_error(model, level, x, draws.normal(x), self.reduction)
        ratio = (sde.sigma(t) / sde.alpha(t)).square()
        return error * ((ratio + self.data**2) / self.data**2).to(error.dtype)
