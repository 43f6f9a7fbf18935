"""DPS (Chung et al. 2022, arXiv:2209.14687, Algorithm 1): a step leads to x', then x' - zeta grad_{x_t} |y - A D(x_t)|.

The paper derives |y - A D|^2 / (2 r^2); its algorithm divides by the residual, not by the noise.
"""

import attrs
from attrs.validators import gt
from torch import Tensor
from scoresde_core import Draw, Step, param
from .method import Look, PosteriorMethod


@attrs.frozen
class DPS(PosteriorMethod):
    """After each step down the gradient of the residual's norm; a Jacobian product a step."""

    needs_linear, settles = False, True
    scale: float = param(1.0, "length of the moves in units of y, zeta", gt(0))

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        move = look.pull(self.scale * look.residual / look.fit(look.residual.flatten(1).norm(dim=1).clamp_min(1e-12)))
        return x + move, mean + move
