r"""DDNM (Wang et al. 2022, arXiv:2212.00490, Eq. 17-19): measured coefficients, of a value c with noise n.

They take the ancestral step a D + b x_t + std z, with the noise of c as a part of z:

    a (D + l (c - D)) + b x_t + sqrt(std^2 - (a l n)^2) z,    l = min(1, std / (a n))
"""

import attrs
import torch
from torch import Tensor
from scoresde_core import Draw, Step
from .method import Look, PosteriorMethod


@attrs.frozen
class DDNM(PosteriorMethod):
    """Measured coefficients by the ancestral step from their values; no Jacobian product."""

    differentiates, settles = False, True

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        now, ahead, seen = step.now, step.next, look.known.seen
        ratio = now.alpha / ahead.alpha
        fresh = 1 - (ratio * ahead.sigma / now.sigma) ** 2  # the share of the variance at ``now`` that the step removes
        a, b, var = (look.fit(v) for v in (ahead.alpha * fresh, (1 - fresh) / ratio, ahead.sigma**2 * fresh))
        own = a**2 * look.own
        share = torch.where(own > var, var / own, 1.0)  # l^2
        centre = a * (seen(look.denoised) + share.sqrt() * look.off) + b * seen(look.x)
        drawn = centre + (var - own).clamp_min(0).sqrt() * noise().reshape(centre.shape)
        return look.put(x, drawn), look.put(mean, centre)
