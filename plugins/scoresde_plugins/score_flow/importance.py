r"""Times of density p(t) proportional to g^2 / sigma^2 on [t_min, 1], for any Gaussian-path SDE.

Since g^2 = d sigma^2/dt - 2 f sigma^2 and f = d log alpha / dt,

    g^2 / sigma^2 = d/dt 2 log(sigma / alpha),

so the weight up to t has a closed form, C(t) = 2 log(sigma / alpha) - 2 log(sigma / alpha) at t_min, and these times
are those whose log signal-to-noise ratio is uniform. With B = int_0^t beta this gives log(e^B - 1) for VP and
2 log(e^B - 1) - B for sub-VP, as in ScoreFlow's published code, 2 t log(sigma_max / sigma_min) for VE (uniform times)
and 2 log t for linear VE. (Near t = 0 all is well as long as the SDE computes sigma without cancellation.)

C is inverted by a table over t, bisected to float64 once for each SDE, and two Newton steps in log t from it. A
sampler's draw costs a few dozen small kernels and no synchronisation.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from scoresde_core.sde import SDE

_ENTRIES = 1025


def importance_times(sde: SDE, u: Tensor, t_min: float) -> Tensor:
    """The times at which a share ``u`` in [0, 1] (any shape) of the weight has passed, float64."""
    log_times = _table(sde, t_min, u.device)
    u = u.double()
    entry = (u * (_ENTRIES - 1)).long().clamp(0, _ENTRIES - 2)
    low, high = log_times[entry], log_times[entry + 1]
    first, total = _ends(sde, t_min)
    goal = first + u * total
    log_t = low + (high - low) * (u * (_ENTRIES - 1) - entry)
    for _ in range(2):
        t = log_t.exp()
        slope = t * (sde.diffusion(t) / sde.sigma(t)).square()
        step = (goal - _weight(sde, t)) / slope
        # The table brackets the answer: a step that leaves it, or a slope of zero, stops at its edge.
        log_t = torch.clamp((log_t + step).nan_to_num(nan=math.inf), low, high)
    return log_t.exp()


def total_weight(sde: SDE, t_min: float) -> float:
    """Z, the integral of g^2 / sigma^2 over [t_min, 1]; ``ValueError`` where the noise does not grow with time."""
    _table(sde, t_min, torch.device("cpu"))
    return _ends(sde, t_min)[1]


def _weight(sde: SDE, t: Tensor) -> Tensor:
    """2 log(sigma / alpha)."""
    return 2 * (sde.sigma(t).log() - sde.alpha(t).log())


@lru_cache(maxsize=16)
def _ends(sde: SDE, t_min: float) -> tuple[float, float]:
    """C before its constant is taken off at t_min, and Z."""
    first, last = _weight(sde, torch.tensor([t_min, 1.0], dtype=torch.float64)).tolist()
    return first, last - first


@lru_cache(maxsize=16)
def _table(sde: SDE, t_min: float, device: torch.device) -> Tensor:
    """log t at equal shares of the weight, by bisection."""
    if device.type != "cpu":
        return _table(sde, t_min, torch.device("cpu")).to(device)
    probe = torch.linspace(math.log(t_min), 0, _ENTRIES, dtype=torch.float64)
    growth = _weight(sde, probe.exp()).diff()
    if not bool((growth >= 0).all()) or not bool(growth.isfinite().all()):
        raise ValueError(
            f"importance-sampled times need sigma / alpha to grow from t_min = {t_min} to 1, {sde} does not: use dsm"
        )
    first, total = _ends(sde, t_min)
    goal = first + torch.linspace(0, 1, _ENTRIES, dtype=torch.float64) * total
    low, high = torch.full_like(goal, math.log(t_min)), torch.zeros_like(goal)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = _weight(sde, middle.exp()) > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    table = 0.5 * (low + high)
    table[0], table[-1] = math.log(t_min), 0.0
    return table
