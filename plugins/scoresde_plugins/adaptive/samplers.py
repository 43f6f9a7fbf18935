r"""The reverse SDE with a step size for every sample (arXiv:2105.14080, Algorithm 1).

Stochastic improved Euler and Euler-Maruyama share their noise; their difference E estimates the local error:

    K1 = -h f(x, t) + sqrt(h) g(t) z,       K2 = -h f(x + K1, t - h) + sqrt(h) g(t - h) z,
    x1 = x + K1,     x2 = x + (K1 + K2) / 2,     E = (K2 - K1) / 2,
    tol = max(abs_tol, rel_tol max(|x1_prev|, |x1|)),     e = sqrt(mean((E / tol)^2)) over a sample's coordinates

with sqrt(h) z the increment of the Brownian path over the step, and f the drift of the reverse SDE. Where e <= 1 the
sample moves on to x2 at t - h; in any case its next step is h <- min(t - t_min, safety h e^{-exponent}).
"""

import attrs
import torch
from attrs.validators import and_, ge, gt, le
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.noise import Noise
from scoresde_core.sampler import Observer, Sampler
from scoresde_core.score import ScoreModel
from scoresde_core.sde import SDE, Level
from scoresde_core.shapes import expand

from .path import Path

ARRIVED = 1e-9
"""A sample whose time is this close to t_min has arrived; a step this short makes no progress any more."""


@attrs.frozen
class AdaptiveSDESampler(Sampler):
    """Two evaluations an attempted step, and one for the denoised state at the end, for each sample by itself.

    Samples that have arrived are evaluated no more; the reported NFE is the mean over samples. Every sample uses the
    noise of its own 1st, 2nd, ... attempt, so it does not depend on its batch. The published code draws new noise after
    a rejected attempt (``redraw``), which favours noise that is accepted: a bias that no tolerance removes, small in
    the thousands of dimensions of an image, but a std of 0.87 for 0.5 in two. By default the noise is kept: the next
    attempt follows the same Brownian path. Published: ``abs_tol`` one grey level (0.0078 for data in [-1, 1], 0.0039
    in [0, 1]); ``rel_tol`` 0.01, 0.02, 0.05 and 0.1. Which samples are left is read back from the device in every
    attempt. A sample whose score is not finite, or that has not arrived after ``max_attempts``, becomes NaN.
    """

    rel_tol: float = param(0.02, "tolerance relative to the state", ge(0))
    abs_tol: float = param(0.0078, "absolute tolerance, in units of the data", gt(0))
    first_step: float = param(0.01, "first step size in t", and_(gt(0), le(1)))
    safety: float = param(0.9, "factor on the proposed step size", and_(gt(0), le(1)))
    exponent: float = param(0.9, "how strongly the error sets the step size", and_(gt(0), le(1)))
    redraw: bool = param(False, "draw new noise after a rejected attempt, as published, rather than keep the path")
    max_attempts: int = param(10_000, "attempts after which a sample is given up", ge(1))
    denoise: bool = param(True, "return the denoised state at t_min")

    def run(self, x: Tensor, model: ScoreModel, sde: SDE, noise: Noise, observe: Observer | None = None) -> Tensor:
        """All samples at their own pace; ``observe`` hears of every attempt."""
        x, previous = x.clone(), x.clone()
        t = torch.ones(len(x), dtype=torch.float64, device=x.device)
        h = torch.full_like(t, min(self.first_step, 1 - sde.t_min))
        rows, path = torch.arange(len(x), device=x.device), Path(x, ARRIVED)
        for attempt in range(self.max_attempts):
            step, path_step = path.propose(rows, h[rows], noise.draw(attempt, "adaptive")[rows])
            low, high, error = self._attempt(x[rows], previous[rows], t[rows], step, path_step, model, sde)
            yes, no = error <= 1, ~(error <= 1)
            moved = rows[yes]
            x[moved], previous[moved] = high[yes], low[yes]
            t[moved] -= step[yes]
            if not self.redraw:
                path.walk(moved, step[yes], path_step[yes])
                path.reveal(rows[no], step[no], path_step[no])
            left = t[rows] - sde.t_min
            # An error of 0 proposes an infinite step, one that is not finite none.
            h[rows] = torch.minimum(self.safety * step * error**-self.exponent, left)
            lost = ~(h[rows] > ARRIVED) & (left > ARRIVED)
            x[rows[lost]] = torch.nan
            rows = rows[(left > ARRIVED) & ~lost]
            if observe is not None:
                observe(attempt + 1, 0, x)
            if not len(rows):
                break
        x[rows] = torch.nan
        return model.denoised(x, _end(sde)) if self.denoise else x

    def _attempt(
        self, x: Tensor, previous: Tensor, t: Tensor, h: Tensor, dw: Tensor, model: ScoreModel, sde: SDE
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both proposals (B, ...) for steps ``h`` (B,) from times ``t`` (B,), and their scaled distance (B,)."""
        first = _increment(x, t, h, dw, model, sde)
        low = x + first
        second = _increment(low, (t - h).clamp_min(sde.t_min), h, dw, model, sde)
        tolerance = torch.maximum(low.abs(), previous.abs()).mul_(self.rel_tol).clamp_min_(self.abs_tol)
        scaled = (0.5 * (second - first) / tolerance).flatten(1)
        return low, x + 0.5 * (first + second), scaled.double().square().mean(1).sqrt()


def _increment(x: Tensor, t: Tensor, h: Tensor, dw: Tensor, model: ScoreModel, sde: SDE) -> Tensor:
    """-h f(x, t) + g(t) dw with f = f(t) x - g^2 score, coefficients in float64 until they meet the state."""
    level, g, rate = sde.level(t), sde.diffusion(t), sde.drift_rate(t)

    def column(value: Tensor) -> Tensor:
        return expand(value.to(x.dtype), x)

    score = model.score(x, Level(column(level.t), column(level.alpha), column(level.sigma)))
    return score.mul(column(g.square() * h)).sub_(column(rate * h) * x).add_(column(g) * dw)


def _end(sde: SDE) -> Level:
    """The level at t_min, in floats."""
    level = sde.level(torch.tensor(sde.t_min, dtype=torch.float64))
    return Level(sde.t_min, float(level.alpha), float(level.sigma))
