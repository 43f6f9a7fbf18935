r"""DSG (Yang et al. 2024, arXiv:2402.03201, Algorithm 1): guidance that keeps the length of a step's noise.

A step of n entries leads to m + std eps. Its noise is turned towards the steepest descent of |y - A(D(x_t))|, d* =
-sqrt(n) std g / |g|, and scaled to the sphere where noise is found:

    x' = m + sqrt(n) std d / |d|,    d = std eps + rate (d* - std eps)
"""

import math

import attrs
import torch
from attrs.validators import and_, gt, le
from torch import Tensor
from scoresde_core import Draw, Step, param
from scoresde_run.sampling.condition import Loop
from .method import Look, PosteriorMethod


@attrs.frozen
class DSG(PosteriorMethod):
    """Noise turned down the gradient of the residual's norm; a Jacobian product a step. Needs a step with noise."""

    needs_linear, settles = False, True
    rate: float = param(0.1, "share of the steepest descent in the direction, g_r", and_(gt(0), le(1)))

    def skip_loop(self, loop: Loop) -> str | None:
        names = [type(part).__name__ for part in loop.steps.values() if getattr(part, "stochastic", True) is False]
        return f"DSG turns the noise of steps, and {names[0]} has none: take ddim[eta=1]" if names else None

    def settle(self, look: Look, step: Step, x: Tensor, mean: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        def long(d: Tensor) -> Tensor:  # sqrt(n) std d / |d|
            norm: Tensor = torch.linalg.vector_norm(d.flatten(1), dim=1).clamp_min(1e-30).reshape(look.std.shape)
            return d / norm * look.std.abs() * math.sqrt(d[0].numel())

        along = look.std * look.z
        return mean + long(along + self.rate * (long(look.pull(look.residual)) - along)), mean
