r"""Conditional flow matching (Lipman et al. 2023, arXiv:2210.02747, Eq. 9; Liu et al. 2023, arXiv:2209.03003, Eq. 1).

    L = E_t |v(x_t, t) - (alpha' x_0 + sigma' eps)|^2

for the model's velocity v = alpha' D + sigma' E with D = E[x_0 | x] and E = E[eps | x]. As x_t = alpha D + sigma E, the
difference is (sigma' - alpha' sigma / alpha) (E - eps): a weighted denoising loss, for any process and network.
"""

import attrs
from torch import Tensor
from scoresde_core import Draws, ScoreModel, denoising_error, level_of
from scoresde_core.score import in_frame
from ..song2021.losses import ContinuousLoss


@attrs.frozen
class FlowMatchingLoss(ContinuousLoss):
    """|v - (alpha' x_0 + sigma' eps)|^2 at uniform times; for rectified flow the velocity is eps - x_0."""

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        sde = model.sde
        model, x = in_frame(model, x)
        t = self.times(sde, draws).clamp_max(sde.t_signal)
        error = denoising_error(model, level_of(sde, t, x), x, draws.normal(x), self.reduction)
        signal, noise = sde.slopes(t)
        return error * (noise - signal * sde.sigma(t) / sde.alpha(t)).square().to(error.dtype)
