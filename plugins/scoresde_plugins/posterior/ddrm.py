r"""DDRM (Kawar et al. 2022, arXiv:2201.11793, Eq. 7-8): measured coefficients, of a value c with noise n.

With s = sigma' / alpha' after the step, they become alpha' times

    (1 - b) D + b c + sqrt(s^2 - (b n)^2) z    where s >= n, else    D + sqrt(1 - eta^2) s (c - D) / n + eta s z
"""

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor
from scoresde_core import Draw, Step, param
from .method import Look, PosteriorMethod


@attrs.frozen
class DDRM(PosteriorMethod):
    """Measured coefficients by their value and noise; no Jacobian product."""

    differentiates, settles = False, True
    eta: float = param(0.85, "share of fresh noise below the noise of a value", and_(ge(0), le(1)))
    eta_b: float = param(1.0, "weight of a value above its noise, b", and_(ge(0), le(1)))

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        alpha, s = look.fit(step.next.alpha), look.fit(step.next.sigma / step.next.alpha)
        n = look.own.sqrt()
        toward = torch.where(n > s, (1 - self.eta**2) ** 0.5 * s / n, self.eta_b) * look.off
        var = torch.where(n > s, self.eta**2 * s**2, s**2 - self.eta_b**2 * look.own)
        centre = alpha * (look.known.seen(look.denoised) + toward)
        drawn = centre + alpha * var.clamp_min(0).sqrt() * noise().reshape(centre.shape)
        return look.put(x, drawn), look.put(mean, centre)
