r"""DiffPIR (Zhu et al. 2023, arXiv:2305.08995, Eq. 12-13): D moves to the x of the least

    |y - A x|^2 / r^2 + lambda |x - D|^2 / s^2,

with s = sigma / alpha.
"""

import attrs
from attrs.validators import gt
from torch import Tensor
from scoresde_core import param
from .method import Look, PosteriorMethod


@attrs.frozen
class DiffPIR(PosteriorMethod):
    """Guidance to a compromise of D and y; no Jacobian product."""

    differentiates = False
    weight: float = param(1.0, "weight of the denoised state, lambda", gt(0))

    def shift(self, look: Look) -> Tensor:
        s2 = look.fit((look.level.sigma / look.level.alpha) ** 2 / self.weight)
        return look.known.events(look.off * s2 / (look.own + s2), look.x)
