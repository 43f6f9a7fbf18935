r"""Times of density p(t) proportional to g^2 / sigma^2 on [t_min, t_signal], for any Gaussian-path SDE.

Since g^2 = d sigma^2/dt - 2 f sigma^2 and f = d log alpha / dt,

    g^2 / sigma^2 = d/dt 2 log(sigma / alpha),

the weight up to t is 2 log(sigma / alpha) minus its value at t_min, and the log signal-to-noise ratio of these times is
uniform: they are ``SDE.time_at`` of evenly spread values. With B = int_0^t beta the weight is log(e^B - 1) for VP and 2
log(e^B - 1) - B for sub-VP, as in ScoreFlow's published code, 2 t log(sigma_max / sigma_min) for VE (uniform times) and
2 log t for linear VE. Near t = 0 this is accurate if the SDE computes sigma without cancellation.
"""

from functools import lru_cache

import torch
from torch import Tensor
from scoresde_core import SDE
from scoresde_core.shapes import expand


def importance_times(sde: SDE, u: Tensor, t_min: float) -> Tensor:
    """Return the times, float64, below which lies a share ``u`` in [0, 1] (any shape) of the weight."""
    first, last = _ends(sde, t_min)
    return sde.time_at(first + u.double() * (last - first), t_min)


def total_weight(sde: SDE, t_min: float) -> float:
    """Return Z, the integral of g^2 / sigma^2 over [t_min, t_signal]; ``ValueError`` if sigma / alpha does not grow."""
    first, last = _ends(sde, t_min)
    return 2 * (last - first)


def relative_weight(sde: SDE, t: Tensor, x: Tensor) -> Tensor:
    """Return g^2 / sigma^2 of each entry over their mean, which gives the times, at ``t`` (B,), float64 like ``x``."""
    rate = (sde.diffusion(t) / sde.sigma(t)).square()
    return expand(rate / expand(rate.flatten(1).mean(1), rate), x)


@lru_cache(maxsize=16)
def _ends(sde: SDE, t_min: float) -> tuple[float, float]:
    """Return log(sigma / alpha) at t_min and at t_signal."""
    probe = sde.log_noise_ratio(sde.t_signal * torch.logspace(0, 1, 1025, base=t_min, dtype=torch.float64).flip(0))
    growth = probe.diff()
    if not bool((growth >= 0).all()) or not bool(growth.isfinite().all()):
        needed = f"importance-sampled times need sigma / alpha to grow from t_min = {t_min} to 1"
        raise ValueError(f"{needed}, but not for {sde}: use dsm")
    first, last = sde.log_noise_ratio(torch.tensor([t_min, sde.t_signal], dtype=torch.float64)).tolist()
    return first, last
