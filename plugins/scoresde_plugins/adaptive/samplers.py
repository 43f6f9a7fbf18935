r"""The reverse SDE with a step size for every sample (arXiv:2105.14080, Algorithm 1).

Stochastic improved Euler and Euler-Maruyama share their noise; their difference E estimates the local error:

    K1 = -h f(x, t) + sqrt(h) g(t) z,       K2 = -h f(x + K1, t - h) + sqrt(h) g(t - h) z,
    x1 = x + K1,     x2 = x + (K1 + K2) / 2,     E = (K2 - K1) / 2,
    tol = max(abs_tol, rel_tol max(|x1_prev|, |x1|)),     e = sqrt(mean((E / tol)^2)) over a sample's coordinates

with sqrt(h) z the increment of the Brownian path over the step, and f the drift of the reverse SDE. If e <= 1 the
sample moves to x2 at t - h; in either case its next step is h <- min(t - t_min, safety h e^{-exponent}).

The paper's ablations are options: the largest scaled error instead of the root mean square (``norm=max``), x1 as the
next state, with |x2| in the tolerance (``extrapolate=false``), a tolerance without |x1_prev| (``use_previous=false``),
and Lamba's scheme (2003), where the noise is that of t and Heun's rule applies to the drift only (``error=drift``),

    K1 = -h f(x, t),     K2 = -h f(x + K1, t - h),     x1 = x + K1 + sqrt(h) g(t) z,     x2 = x1 + E,

so that the error of the noise is not controlled, and its bias falls slowly with the tolerance.

A rejected attempt has seen the increment W of the path over its step. To draw a new one in its place would favour
increments that are accepted, and bias the samples at any tolerance. Instead the increment of the shorter step that
follows comes from the Brownian bridge given W, and the rest of W is used before anything new is drawn (rejection
sampling with memory: Rackauckas & Nie 2017, doi:10.3934/dcdsb.2017133). For an increment V over a length L, and h <= L,

    W(h) | V ~ N(h V / L, h (1 - h / L) I)

The known path is a list of segments (length, increment), nearest first. A step never crosses the end of a segment.
"""

from typing import ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, le
from torch import Tensor
from scoresde_core import Level, Noise, Observer, Sampler, ScoreModel, param
from scoresde_core.score import ExactScore
from scoresde_core.shapes import expand
from ..coordinates import ENTRIES

ARRIVED = 1e-9
"""A sample whose time is this close to t_min has arrived; a sample whose step is this short is lost."""
SEGMENTS = 4
"""Segments kept per sample; beyond this many, after as many rejections in a row, the two farthest are merged."""


class Path:
    """The known segments of a batch of samples; the rest of a segment shorter than ``shortest`` is dropped."""

    def __init__(self, x: Tensor, shortest: float) -> None:
        self.lengths = torch.zeros(len(x), SEGMENTS, dtype=torch.float64, device=x.device)
        self.increments = x.new_zeros(len(x), SEGMENTS, *x.shape[1:])
        self.shortest = shortest

    def propose(self, rows: Tensor, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps of at most ``h`` (R,) and the path's increments over them (R, ...), from normal ``z``."""
        length = self.lengths[rows, 0]
        known = length > 0
        h = torch.where(known, torch.minimum(h, length), h)
        share = torch.where(known, h / length.clamp_min(self.shortest), 0.0)
        std = (h * (1 - share)).sqrt()
        bridge = expand(share.to(z.dtype), z) * self.increments[rows, 0]
        return h, bridge.add_(expand(std.to(z.dtype), z) * z)

    def walk(self, rows: Tensor, h: Tensor, increment: Tensor) -> None:
        """Remove accepted steps from the nearest segment."""
        lengths, increments = self.lengths[rows], self.increments[rows]
        lengths[:, 0] -= h
        increments[:, 0] -= increment
        over = lengths[:, 0] <= self.shortest
        lengths[over] = torch.cat([lengths[over, 1:], torch.zeros_like(lengths[over, :1])], 1)
        increments[over] = torch.cat([increments[over, 1:], torch.zeros_like(increments[over, :1])], 1)
        self.lengths[rows], self.increments[rows] = lengths, increments

    def reveal(self, rows: Tensor, h: Tensor, increment: Tensor) -> None:
        """Store the increments of rejected steps."""
        lengths, increments = self.lengths[rows], self.increments[rows]
        rest = lengths[:, 0] - h
        new, inside = lengths[:, 0] == 0, rest > self.shortest
        lengths[new, 0], increments[new, 0] = h[new], increment[new]
        lengths[inside] = _push(lengths[inside], h[inside], rest[inside])
        ahead = increments[inside, 0] - increment[inside]
        increments[inside] = _push(increments[inside], increment[inside], ahead)
        self.lengths[rows], self.increments[rows] = lengths, increments


def _push(segments: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Split the nearest of the segments (R, SEGMENTS, ...) in two, and merge the last two."""
    last = segments[:, -2:].sum(1)
    return torch.cat([torch.stack([first, second], 1), segments[:, 1:-2], last.unsqueeze(1)], 1)


@attrs.frozen
class AdaptiveSDESampler(Sampler):
    """Steps of each sample's own size: two evaluations per attempted step, and one for the denoised state at the end.

    Samples that have arrived are not evaluated again; the reported NFE is the mean over samples. Every sample uses the
    noise of its own 1st, 2nd, ... attempt, so it does not depend on its batch. The published code draws new noise after
    a rejected attempt (``redraw``), which favours noise that is accepted: a bias that no tolerance removes, small in
    the thousands of dimensions of an image, but a std of 0.87 instead of 0.5 in two. By default the noise is kept: the
    next attempt follows the same Brownian path. Published: ``abs_tol`` one grey level (0.0078 for data in [-1, 1],
    0.0039 in [0, 1]); ``rel_tol`` 0.01, 0.02, 0.05 and 0.1. Every attempt waits for the device, to see which samples
    are left. A sample whose score is not finite, or that has not arrived after ``max_attempts``, becomes NaN.
    """

    coarse: ClassVar = {"rel_tol": 0.5, "abs_tol": 0.5}  # for the conformance suite's checks of bookkeeping

    rel_tol: float = param(0.02, "tolerance relative to the state", and_(ge(0), le(1e6)))
    abs_tol: float = param(0.0078, "absolute tolerance, in units of the data", and_(gt(0), le(1e15)))
    first_step: float = param(0.01, "first step size in t", and_(gt(0), le(1)))
    safety: float = param(0.9, "factor on the proposed step size", and_(gt(0), le(1)))
    exponent: float = param(0.9, "how strongly the error sets the step size", and_(gt(0), le(1)))
    norm: Literal["rms", "max"] = param("rms", "norm of the scaled error over a sample's coordinates")
    error: Literal["sde", "drift"] = param("sde", "what Heun's rule applies to: the whole step, or its drift (Lamba)")
    extrapolate: bool = param(True, "continue from Heun's proposal x2, not from Euler-Maruyama's x1")
    use_previous: bool = param(True, "also scale the tolerance by the previous proposal, where that is larger")
    redraw: bool = param(False, "draw new noise after a rejected attempt, as published, instead of keeping the path")
    max_attempts: int = param(10_000, "attempts after which a sample becomes NaN", ge(1))
    denoise: bool = param(True, "return the denoised state at t_min")

    serves = ENTRIES

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        sde = model.sde
        x, previous = x.clone(), x.clone()
        vanishing = sde.t_signal < sde.t_max
        if vanishing:
            now, ahead = sde.level_at(sde.t_max, x), sde.level_at(sde.t_signal, x)
            x = ahead.alpha * model.denoised(x, now) + ahead.sigma / now.sigma * x
        t = torch.full((len(x),), sde.t_signal, dtype=torch.float64, device=x.device)
        first = min(self.first_step, sde.t_signal - sde.t_min)
        h = torch.full_like(t, min(first, sde.t_max - sde.t_signal) if vanishing else first)
        rows, path = torch.arange(len(x), device=x.device), Path(x, ARRIVED)
        for attempt in range(self.max_attempts):
            step, path_step = path.propose(rows, h[rows], noise.draw(attempt, "adaptive")[rows])
            kept, other, error = self._attempt(x[rows], previous[rows], t[rows], step, path_step, model.select(rows))
            yes, no = error <= 1, ~(error <= 1)
            moved = rows[yes]
            x[moved], previous[moved] = kept[yes], other[yes]
            t[moved] -= step[yes]
            if not self.redraw:
                path.walk(moved, step[yes], path_step[yes])
                path.reveal(rows[no], step[no], path_step[no])
            left = t[rows] - sde.t_min
            # An error of 0 proposes an infinite step, an infinite error a step of 0.
            h[rows] = torch.minimum(self.safety * step * error**-self.exponent, left)
            if vanishing:  # the drift is about x / (t_max - t): longer steps overshoot, and some pass by chance
                h[rows] = torch.minimum(h[rows], sde.t_max - t[rows])
            lost = ~(h[rows] > ARRIVED) & (left > ARRIVED)
            x[rows[lost]] = torch.nan
            rows = rows[(left > ARRIVED) & ~lost]
            if observe is not None:
                observe(attempt + 1, 0, x)
            if not len(rows):
                break
        x[rows] = torch.nan
        return model.denoised(x, sde.level_at(sde.t_min, x)) if self.denoise else x

    def skip_model(self, model: ScoreModel) -> str | None:
        if model.sde.form != "diagonal" or not isinstance(model, ExactScore):
            return None
        why = f"the exact score under {type(model.sde).__name__} is for one time a call: take the sampler pc or ode"
        return f"adaptive_sde gives each sample times of its own, and {why}"

    def _attempt(
        self, x: Tensor, previous: Tensor, t: Tensor, h: Tensor, dw: Tensor, model: ScoreModel
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the proposal to continue from, the other one (B, ...), and their scaled distance (B,).

        ``h`` (B,) are the steps from times ``t`` (B,), ``dw`` the path's increments over them.
        """
        sde = model.sde
        drift, noise = _parts(x, t, h, dw, model)
        mean = x + drift
        low, ahead = mean + noise, (t - h).clamp_min(sde.t_min)
        if self.error == "sde":
            next_drift, next_noise = _parts(low, ahead, h, dw, model)
            change = next_drift.add_(next_noise).sub_(drift).sub_(noise).mul_(0.5)
        else:
            change = _parts(mean, ahead, h, dw, model)[0].sub_(drift).mul_(0.5)
        high = low + change
        kept, other = (high, low) if self.extrapolate else (low, high)
        scale = torch.maximum(other.abs(), previous.abs()) if self.use_previous else other.abs()
        scaled = (change / scale.mul_(self.rel_tol).clamp_min_(self.abs_tol)).flatten(1).double()
        error = scaled.abs().amax(1) if self.norm == "max" else scaled.square().mean(1).sqrt()
        return kept, other, error


def _parts(x: Tensor, t: Tensor, h: Tensor, dw: Tensor, model: ScoreModel) -> tuple[Tensor, Tensor]:
    """Return -h f(x, t) with f = f(t) x - g^2 score, and g(t) dw; the coefficients are computed in float64."""
    sde = model.sde
    g, rate = sde.diffusion(t), sde.drift_rate(t)
    steps = expand(h, g)

    def column(value: Tensor) -> Tensor:
        return expand(value, x).to(x.dtype)

    score = model.score(x, Level(column(t), column(sde.alpha(t)), column(sde.sigma(t))))
    return score.mul(column(g.square() * steps)).sub_(column(rate * steps) * x), column(g) * dw
