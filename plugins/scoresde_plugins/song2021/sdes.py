r"""The three SDEs of Song et al. 2021 (arXiv:2011.13456, Section 3.4 and Appendices B and C).

With B(t) = int_0^t beta(s) ds = beta_min t + (beta_max - beta_min) t^2 / 2:

    VE       dx = sigma(t) sqrt(2 log(sigma_max/sigma_min)) dw     alpha = 1          sigma = sigma_min r^t
    VP       dx = -beta x/2 dt + sqrt(beta) dw                     alpha = e^{-B/2}   sigma = sqrt(1 - e^{-B})
    sub-VP   dx = -beta x/2 dt + sqrt(beta (1 - e^{-2B})) dw       alpha = e^{-B/2}   sigma = 1 - e^{-B}

Every ``1 - e^{-B}`` goes through ``expm1``: near t = 0 the plain form loses a percent in float32.

When their published discrete chains are used is in :mod:`.chains`.
"""

import math
from functools import lru_cache
from typing import Literal

import attrs
import torch
from attrs.validators import and_, gt, le, lt
from torch import Tensor
from scoresde_core import SDE, GaussianPrior, Level, Transition, param
from .chains import CHAIN_HELP, ChainName, TabulatedSDE, evenly_spaced

LARGEST = 1e15  # the largest scale allowed: squares of the state stay finite in float32
IN_RANGE = (gt(0), le(LARGEST))
T_MIN_HELP = "smallest time at which the score is evaluated"


@attrs.frozen
class VESDE(TabulatedSDE):
    r"""Variance exploding: ``alpha = 1``, ``sigma(t) = sigma_min (sigma_max / sigma_min)^t`` (Eq. 30-31).

    The continuous limit of NCSN's noise scales. ``prior_mean`` moves the prior N(prior_mean, sigma_max^2 I): zero as
    published, or the data's mean, one value for all channels or one per channel. The choice changes the KL from the
    true marginal by ``D mean^2 / (2 sigma_max^2)`` nats: about 0.14 on CIFAR-10.
    """

    sigma_min: float = param(0.01, "smallest noise scale", IN_RANGE)
    sigma_max: float = param(50.0, "largest noise scale; about the largest distance between two data points", IN_RANGE)
    chain: ChainName = param("published", CHAIN_HELP)
    prior_mean: float | tuple[float, ...] = param(0.0, "mean of the prior, or one mean per channel")
    t_min: float = param(1e-5, T_MIN_HELP, and_(gt(0), lt(1)))

    def __attrs_post_init__(self) -> None:
        means = self.prior_mean if isinstance(self.prior_mean, tuple) else (self.prior_mean,)
        if not all(abs(mean) <= LARGEST for mean in means):
            raise ValueError(f"prior_mean must lie between -{LARGEST:g} and {LARGEST:g}, got {self.prior_mean}")
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max must be above sigma_min, got {self.sigma_max} and {self.sigma_min}")

    @property
    def log_ratio(self) -> float:
        """log(sigma_max / sigma_min)."""
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior(self) -> GaussianPrior:
        return GaussianPrior(self.prior_mean, self.sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * self.log_ratio)

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        t = (log_noise_ratio.double() - math.log(self.sigma_min)) / self.log_ratio
        return t.clamp(t_min or self.t_min, 1)

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self.log_ratio)

    def published(self, steps: int) -> Transition:
        """SMLD (Eq. 8 and 46): variance sigma_i^2 - sigma_{i-1}^2, with sigma_{-1} = 0 for clean data.

        The table is read at i/(N-1); the posterior's noise is that of the way back.
        """
        entries = torch.linspace(1, 0, steps, dtype=torch.float64)
        sigma = torch.cat([self.sigma(entries), entries.new_zeros(1)])
        std = ((sigma[:-1] - sigma[1:]) * (sigma[:-1] + sigma[1:])).sqrt()
        return Transition(torch.ones_like(std), std, std * sigma[1:] / sigma[:-1])

    def discrete_level(self, t: Tensor, n: int) -> Level:
        """Entry round((n - 1) t) of the table of ``n`` noise scales."""
        return self.level((t * (n - 1)).round() / (n - 1))


_LARGEST_BETAS = 340


@attrs.frozen
class LinearBetaSDE(SDE):
    """Base of VP and sub-VP: drift -beta(t) x / 2 with beta linear in t, and the prior N(0, I)."""

    beta_min: float = param(0.1, "beta at t = 0", IN_RANGE)
    beta_max: float = param(20.0, "beta at t = 1", IN_RANGE)
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(1)))

    def __attrs_post_init__(self) -> None:
        if self.beta_min + self.beta_max > _LARGEST_BETAS:
            raise ValueError(
                f"beta_min + beta_max must be at most {_LARGEST_BETAS}, got {self.beta_min} and {self.beta_max}: "
                "above that, the signal at t = 1, exp(-(beta_min + beta_max) / 4), underflows in float32"
            )

    @property
    def prior(self) -> GaussianPrior:
        return GaussianPrior()

    def beta(self, t: Tensor) -> Tensor:
        """beta_min + t (beta_max - beta_min)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        return t * self.beta_min + 0.5 * t * t * (self.beta_max - self.beta_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integral(t))

    def time_of(self, integral: Tensor, t_min: float | None = None) -> Tensor:
        """The time in [t_min, 1] at which B(t) equals ``integral``: the root of a quadratic, without cancellation."""
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).clamp_min(0).sqrt()
        return (2 * integral / (self.beta_min + root)).clamp(t_min or self.t_min, 1)

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)


@attrs.frozen
class VPSDE(TabulatedSDE, LinearBetaSDE):
    """Variance preserving: ``alpha = e^{-B/2}``, ``sigma = sqrt(1 - e^{-B})`` (Eq. 32-33), the limit of DDPM.

    The last step of the published table covers 1/N of time, whatever ``t_min`` is. That equals t_min for the published
    N = 1000; with fewer steps it removes more noise than is left. ``chain=exact`` takes the exact transitions between
    the grid's times instead (docs/exact_scores.md compares the two).
    """

    chain: ChainName = param("published", CHAIN_HELP, kw_only=True)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        """(sigma / alpha)^2 = e^B - 1, inverted."""
        return self.time_of(torch.log1p((2 * log_noise_ratio.double()).exp()), t_min)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def betas(self, n: int) -> Tensor:
        """beta_i = beta(i / (n - 1)) / n for i = 0 .. n-1, smallest first."""
        return self.beta(torch.linspace(0, 1, n, dtype=torch.float64)) / n

    def published(self, steps: int) -> Transition | None:
        """DDPM (Eq. 10): scale sqrt(1 - beta_i), variance beta_i both ways (the larger of Ho et al.'s two choices).

        Up to N = beta_max steps there is no such chain: variances would exceed one (NaN in the published code).
        """
        beta = self.betas(steps).flip(0)
        return Transition((1 - beta).sqrt(), beta.sqrt()) if steps > self.beta_max else None

    def discrete_level(self, t: Tensor, n: int) -> Level:
        """Entry floor((n - 1) t) of the table: alpha_bar_i is the product of 1 - beta_j up to i."""
        log_signal = _log_signal(self, n, t.device, t.dtype)
        # On the published grid t (n - 1) is an integer up to rounding, so the floor is taken slightly above it.
        entry = log_signal[(t * (n - 1) + 1e-6).long().clamp(0, n - 1)]
        return Level(t, torch.exp(0.5 * entry), torch.sqrt(-torch.expm1(entry)))


@lru_cache(maxsize=8)
def _log_signal(sde: VPSDE, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """log alpha_bar_i, cached: training reads it at every step, and a copy to the device would block."""
    return torch.log1p(-sde.betas(n)).cumsum(0).to(device=device, dtype=dtype)


@attrs.frozen
class SubVPSDE(LinearBetaSDE):
    """Sub-VP: ``alpha = e^{-B/2}``, ``sigma = 1 - e^{-B}``, less noise than VP at every time (Eq. 34-35).

    Its discrete chain is Euler-Maruyama over the grid's steps. With ``chain=published`` all steps have length 1/N, the
    last included, as in the published code; the two agree for N = 1/t_min, and on grids other than ``uniform``.
    """

    chain: Literal["grid", "published"] = param(
        "grid", "discrete chain: Euler-Maruyama over the grid's steps, or over steps of 1/N as published", kw_only=True
    )

    def sigma(self, t: Tensor) -> Tensor:
        """1 - e^{-B}, the standard deviation, not the variance."""
        return -torch.expm1(-self.integral(t))

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        """sigma / alpha = 2 sinh(B / 2), inverted."""
        return self.time_of(2 * torch.asinh(0.5 * log_noise_ratio.double().exp()), t_min)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.beta(t) * -torch.expm1(-2 * self.integral(t)))

    def discretize(self, times: Tensor) -> Transition:
        if self.chain == "grid" or not evenly_spaced(times):
            return SDE.discretize(self, times)
        now, steps = times[:-1], len(times) - 1
        return Transition.from_drift(self.drift_rate(now) / steps, self.diffusion(now) / steps**0.5)
