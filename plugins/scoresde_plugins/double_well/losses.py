r"""Sliced score matching (Song et al. 2019, arXiv:1905.07088, Eq. 8), for a process known by simulation alone.

    L = E_t g(t)^2 E_{x_t} E_v [ v^T (ds/dx) v + |s|^2 / 2 ]

has the minimiser s = grad log p_t, with no law of x_t given x_0. States x_t come from Heun's rule on the forward
process (of weak order 2, as its noise does not depend on x), in ``steps`` steps to each event's own time; entries of v
are +-1.
"""

import math

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Draws, Level, ScoreModel, level_of, param
from scoresde_core.score import in_frame
from scoresde_core.shapes import expand
from ..song2021.losses import ContinuousLoss


@attrs.frozen
class SlicedScoreMatchingLoss(ContinuousLoss):
    """g^2 (v^T ds/dx v + |s|^2 / 2) at simulated states; it has no lower bound that is known beforehand."""

    steps: int = param(100, "steps of the forward simulation", ge(1), kw_only=True)

    serves = ("scalar", "nonlinear")

    def per_sample(self, model: ScoreModel, x: Tensor, draws: Draws) -> Tensor:
        process = model.sde
        t = self.times(process, draws)
        if process.form == "scalar":
            model, x = in_frame(model, x)
            state, level = process.perturb(x, t.to(x.dtype), draws.normal(x)), level_of(process, t, x)
        else:
            state, level = self._simulated(model, x, t, draws), Level(expand(t, x), math.nan, math.nan)
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            at = state.detach().requires_grad_(True)
            score = model.score(at, level)
            v = torch.where(draws.normal(x, "probe") >= 0, 1.0, -1.0).to(x)
            along = torch.zeros_like(at)
            if score.requires_grad:  # else it does not depend on the state
                (along,) = torch.autograd.grad((score * v).sum(), at, create_graph=training)
        value = along * v + 0.5 * (score if training else score.detach()).square()
        reduced = value.flatten(1).mean(1) if self.reduction == "mean" else value.flatten(1).sum(1)
        return reduced * process.diffusion(t).square().to(x.dtype)

    @torch.no_grad()
    def _simulated(self, model: ScoreModel, x: Tensor, t: Tensor, draws: Draws) -> Tensor:
        """x_t of each event by Heun's rule; a drift f is tamed to f / sqrt(1 + (h f)^2), so that no step explodes."""
        process, h = model.sde, t / self.steps
        length = expand(h.to(x.dtype), x)

        def moved(x: Tensor, t: Tensor) -> Tensor:
            rise = length * process.drift(x, t.to(x.dtype))
            return rise * (1 + rise.square()).rsqrt()

        for k in range(self.steps):
            noise = expand((process.diffusion(k * h) * h.sqrt()).to(x.dtype), x) * draws.normal(x, f"path {k}")
            first = moved(x, k * h)
            x = x + 0.5 * (first + moved(x + first + noise, (k + 1) * h)) + noise
        return x
