r"""PiGDM (Song et al. 2023, ICLR, Eq. 7-8): Cov[x_0 | x_t] as for data of variance 1, with s = sigma / alpha,

    shift = V A^T (s^2 / (1 + s^2) A A^T + r^2)^{-1} (y - A D)

The paper's loop also weighs it; a score has no such weight.
"""

import attrs
from torch import Tensor
from .method import Look, PosteriorMethod


@attrs.frozen
class PiGDM(PosteriorMethod):
    """Guidance with one variance at each level; a Jacobian product an evaluation."""

    def shift(self, look: Look) -> Tensor:
        a2, s2 = look.level.alpha**2, look.level.sigma**2
        return look.covary(look.residual / (look.variance + look.gain**2 * look.fit(s2 / (a2 + s2))))
