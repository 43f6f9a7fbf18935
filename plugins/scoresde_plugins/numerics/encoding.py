r"""Encoding by the probability flow ODE: latents, their interpolation, temperature, and the round trip.

The ODE maps data at t_min one to one to latents at t = 1, whose distribution is nearly the prior. The map depends on
the marginals p_t alone, not on the network: two models of the same data with exact scores encode alike (Song et al.
2021, arXiv:2011.13456, Section 4.3 and Appendix D.5). Latents have the scale of the prior: 1 for VP, sigma_max for VE.
"""

from functools import partial
from typing import NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor
from scoresde_core import GaussianPrior, ScoreModel, UsageError
from scoresde_core.score import in_batches
from scoresde_core.shapes import expand
from .flow import Solver, check_t_min, require_continuous, velocity


class RoundTrip(NamedTuple):
    """Events ``x`` (n, ...) encoded, decoded again, and the root mean square error (n,)."""

    latent: Tensor
    decoded: Tensor
    error: Tensor


class Path(TypedDict, total=False):
    """Options of the ODE: ``t_min`` of the data (the SDE's by default), solver, batch size, and ``discrete`` models."""

    t_min: float | None
    solver: Solver | None
    batch_size: int | None
    discrete: bool


def encode(model: ScoreModel, x: Tensor, **path: Unpack[Path]) -> Tensor:
    """Return latents at t = 1 of events ``x`` (n, ...) placed at ``t_min``, like ``x``."""
    return _follow(model, x, encoding=True, **path)


def decode(model: ScoreModel, latent: Tensor, *, denoise: bool = False, **path: Unpack[Path]) -> Tensor:
    """Return events at ``t_min`` of latents (n, ...) at t = 1; without ``denoise`` the inverse of :func:`encode`."""
    events = _follow(model, latent, encoding=False, **path)
    if not denoise:
        return events
    t_min, clean = model.sde.t_min if (given := path.get("t_min")) is None else given, []
    with torch.no_grad():
        for _, known, part in in_batches(model.framed(), events, path.get("batch_size")):
            frame = known.sde.frame
            state = frame.enter(part, t_min) if frame else part
            x = known.denoised(state, known.sde.level_at(t_min, state))
            clean.append(frame.drop(x) if frame else x)
    return torch.cat(clean)


def round_trip(model: ScoreModel, x: Tensor, **path: Unpack[Path]) -> RoundTrip:
    """Encode and decode ``x``; the error is the solver's, a few times its tolerance, for any model."""
    latent = encode(model, x, **path)
    back = decode(model, latent, **path)
    return RoundTrip(latent, back, (back - x).flatten(1).square().mean(1).sqrt())


def interpolate(first: Tensor, last: Tensor, weights: Tensor, prior: GaussianPrior | None = None) -> Tensor:
    """Interpolate between ``first`` and ``last``, both (n, ...), on the great arc: (W, n, ...) for ``weights`` (W,).

    A straight line would leave the shell where a Gaussian in many dimensions has its mass. For weights w from 0 to 1
    and the angle a between the two latents, seen from the mean of ``prior``,

        z = (sin((1 - w) a) z_0 + sin(w a) z_1) / sin a

    (Shoemake 1985, doi:10.1145/325334.325242). For a = 0 the arc is a straight line; opposite latents are an error,
    because the arc between them is not unique.
    """
    if first.shape != last.shape:
        raise ValueError(f"the latents must have one shape, got {tuple(first.shape)} and {tuple(last.shape)}")
    centre = prior.shift(first) if prior else 0.0
    a, b = (first - centre).double(), (last - centre).double()
    unit_a, unit_b = (expand(1 / v.flatten(1).norm(dim=1).clamp_min(1e-300), v) * v for v in (a, b))
    # The angle from half the chord of sum and difference: exact for small angles, where a cosine is not.
    apart, along = ((unit_a - unit_b).flatten(1).norm(dim=1), (unit_a + unit_b).flatten(1).norm(dim=1))
    if bool((along < 1e-9).any()):
        remedy = "change one of them"
        raise ValueError(f"two latents are opposite to each other, so no arc between them is shortest: {remedy}")
    # Two latents less than 1e-7 apart are on a straight line: sin(w a) / sin a is w there.
    angle = expand(2 * torch.atan2(apart, along), a).clamp_min(1e-7)
    w = weights.to(a).reshape(-1, *[1] * a.ndim)
    from_a, from_b = (((share * angle).sin() / angle.sin()) for share in (1 - w, w))
    return (from_a * a + from_b * b).to(first) + centre


def temper(latent: Tensor, temperature: float, prior: GaussianPrior | None = None) -> Tensor:
    """Scale latents about the prior's mean: mean + T (z - mean); T below 1 gives more typical events."""
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    centre = prior.shift(latent) if prior else 0.0
    return centre + temperature * (latent - centre)


@torch.no_grad()
def _follow(
    model: ScoreModel, x: Tensor, *, encoding: bool, t_min: float | None = None, solver: Solver | None = None,
    batch_size: int | None = None, discrete: bool = False,
) -> Tensor:  # fmt: skip
    """Solve the ODE from one end to the other, with the state in float64 and the model in the dtype of ``x``."""
    sde = model.sde
    t_min, solver = sde.t_min if t_min is None else t_min, solver or Solver()
    check_t_min(t_min)
    if sde.parts > 1:
        raise UsageError(f"{sde!r} adds variables to an event, so that many latents belong to it: it has no encoding")
    if not discrete:
        require_continuous(model, "an encoding")
    start, end = (t_min, sde.t_max) if encoding else (sde.t_max, t_min)
    found = []
    for _, known, part in in_batches(model.framed(), x, batch_size):
        frame, at = known.sde.frame, part.double()
        at = frame.enter(at, start) if frame else at
        state = solver.solve(partial(velocity, known, dtype=x.dtype), at, start, end)
        found.append((frame.leave(state, end) if frame else state).to(x))
    return torch.cat(found)
