"""Processes that move to an observation, of coupled variables, and with any drift: each claim against its equation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from .candidate import Candidate, Skip
from .expect import near

TIMES = (0.02, 0.1, 0.3, 0.6, 0.9)
_PATHS, _STEPS = 40_000, 400


def is_still_at_its_observation(candidate: Candidate) -> None:
    """An event that is its own observation keeps its mean: alpha + m = 1 at every time, and m(0) = 0, to 1e-9."""
    sde = candidate.component
    if "y" not in sde.needs:
        raise Skip("it moves to no observation")
    t = torch.tensor([0.0, *TIMES, sde.t_max], dtype=torch.float64)
    off = (sde.alpha(t) + sde.centre(t) - 1).abs()
    k = int(off.argmax())
    assert float(off[k]) <= 1e-9, (
        f"alpha + centre is {1 + float(off[k]):.6g} at t = {float(t[k]):.3g}, expected 1: centre disagrees with alpha"
    )
    start = float(sde.centre(t[0]))
    assert abs(start) <= 1e-9, f"centre(0) is {start:.3g}, expected 0: the process starts at the data"


def matrices_solve_the_moment_equations(candidate: Candidate) -> None:
    """A' = F A, Sigma' = F Sigma + Sigma F^T + G G^T and sigma' = (F + G G^T Sigma^-1 / 2) sigma, to 1e-5.

    With Sigma = sigma sigma^T. The prior is at most 0.001 nats from the state at t_max of data of unit variance.
    """
    sde = candidate.component
    if sde.form != "blocks":
        raise Skip("it has no matrices")
    t = torch.tensor([u for u in TIMES if u > 2 * sde.t_min], dtype=torch.float64)
    sigma, rate, spread = sde.sigma(t), sde.drift_rate(t), sde.diffusion(t) @ sde.diffusion(t).mT
    cov = sigma @ sigma.mT
    _solves("alpha", sde.alpha, t, rate @ sde.alpha(t), "drift_rate")
    growth = rate @ cov + cov @ rate.mT + spread
    _solves("sigma sigma^T", lambda u: sde.sigma(u) @ sde.sigma(u).mT, t, growth, "drift_rate and diffusion")
    pull = rate + 0.5 * spread @ torch.linalg.inv(cov)
    _solves("sigma", sde.sigma, t, pull @ sigma, "the probability flow")
    end = torch.tensor(sde.t_max, dtype=torch.float64)
    first, root = sde.alpha(end)[:, :1], sde.sigma(end)
    state = first @ first.T + root @ root.T
    prior = torch.as_tensor(sde.prior.std, dtype=torch.float64).expand(len(state)).square()
    divergence = 0.5 * float((state.diagonal() / prior).sum() - len(state) + prior.log().sum() - state.logdet())
    assert divergence <= 1e-3, f"the prior is {divergence:.2g} nats from the state at t_max, expected at most 0.001"


def _solves(name: str, function: Callable[[Tensor], Tensor], t: Tensor, expected: Tensor, source: str) -> None:
    h = 1e-4 * t  # five points: the error is of order h^4
    wide = function(t + 2 * h) - function(t - 2 * h)
    slope = (8 * (function(t + h) - function(t - h)) - wide) / (12 * h).reshape(-1, 1, 1)
    error = (slope - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
    k = int(error.nan_to_num(math.inf).argmax())
    told = f"the slope of {name} at t = {float(t[k]):.3g} is {float(error[k]):.2g} of itself from that of {source}"
    assert float(error[k]) <= 1e-5, told


def simulation_ends_in_the_prior(candidate: Candidate) -> None:
    """Forward paths from N(0.5, 0.5^2) end in the prior: its first, second and fourth moment within 5 standard errors.

    40,000 paths of 400 steps of Heun's rule. The density of the prior integrates to 1.
    """
    process = candidate.component
    if process.form != "nonlinear":
        raise Skip("it has alpha and sigma")
    x = 0.5 + 0.5 * torch.randn(_PATHS, 1, dtype=torch.float64)
    h = process.t_max / _STEPS
    for k in range(_STEPS):
        t = torch.tensor(k * h, dtype=torch.float64)
        noise = process.diffusion(t) * h**0.5 * torch.randn_like(x)
        drift = process.drift(x, t)
        x = x + 0.5 * h * (drift + process.drift(x + h * drift + noise, t + h)) + noise
    drawn = process.prior.from_noise(torch.randn(_PATHS, 1, dtype=torch.float64))
    for name, power in (("mean", 1), ("mean square", 2), ("fourth moment", 4)):
        a, b = x**power, drawn**power
        error = float((a.var() + b.var()).sqrt()) / math.sqrt(_PATHS)
        told = f"compared with that of the prior, the {name} of simulated states at t_max"
        near(told, a.mean(), b.mean(), 5 * error)
    grid = torch.linspace(float(drawn.min()) - 3, float(drawn.max()) + 3, 20_001, dtype=torch.float64)
    mass = float(torch.trapezoid(process.prior.log_prob(grid.unsqueeze(1)).exp(), grid))
    assert abs(mass - 1) <= 1e-3, f"the prior's density integrates to {mass:.5f}, expected 1"
