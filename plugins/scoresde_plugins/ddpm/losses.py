"""The loss of DDPM (Ho et al. 2020, arXiv:2006.11239, Eq. 14): predict the noise at a random step of the chain."""

import attrs
import torch
from torch import Tensor
from scoresde_core import Reduction, param
from ..ncsn.losses import DiscreteLoss
from ..song2021.losses import REDUCTION_HELP


@attrs.frozen
class DDPMLoss(DiscreteLoss):
    """|z - eps(sqrt(abar_i) x + sqrt(1 - abar_i) z, i)|^2 over N steps; published: the mean over dimensions."""

    reduction: Reduction = param("mean", REDUCTION_HELP)

    def misfit(self, alpha: Tensor, sigma: Tensor) -> str | None:
        variance = alpha.square() + sigma.square()
        kept = torch.allclose(variance, torch.ones_like(variance), rtol=0, atol=1e-6)
        return None if kept else "a variance-preserving chain (alpha^2 + sigma^2 = 1)"
