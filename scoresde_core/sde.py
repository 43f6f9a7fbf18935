r"""Gaussian-path SDEs: the forward process that turns data (t = 0) into the prior (t = t_max, 1 unless stated).

    dx = f(t) x dt + g(t) dw,        x_t = alpha(t) x_0 + sigma(t) eps,   eps ~ N(0, I)

The two descriptions are equivalent (Song et al. 2021, arXiv:2011.13456, Eq. 29; Karras et al. 2022,
arXiv:2206.00364, Appendix B), so an SDE here is ``alpha`` and ``sigma``; the rest follows:

    f(t)  = d log alpha / dt
    g(t)^2 = d sigma^2 / dt - 2 f(t) sigma(t)^2
    p(x_t | x_s) = N(a x_s, (sigma_t^2 - a^2 sigma_s^2) I),   a = alpha_t / alpha_s,  s < t

The signal may vanish at the end, alpha(t_max) = 0, as in flow matching. There f is infinite and x says nothing of x_0,
but the flow dx/dt = alpha' E[x_0 | x] + sigma' E[eps | x] is finite (Lipman et al. 2023, arXiv:2210.02747).

``t`` may be a float64 tensor on the CPU (a sampler's grid, evaluated once) or any float tensor on the device
(training times). Functions of ``t`` return a tensor of the shape, dtype and device of ``t``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from .contract import Contract, derived
from .shapes import expand

Scalar = float | Tensor
"""A float, or a tensor that broadcasts against the state (0-dim, or one value per row)."""


@attrs.frozen
class Level:
    """A noise level: the time and the coefficients of ``x_t = alpha x_0 + sigma eps``."""

    t: Scalar
    alpha: Scalar
    sigma: Scalar


DATA = Level(0.0, 1.0, 0.0)
"""The level of clean data, where the last step of a sampler ends."""


@attrs.frozen
class GaussianPrior:
    """N(mean, std^2 I) over events of any shape; a tuple holds one mean per channel (dimension 1)."""

    mean: float | tuple[float, ...] = 0.0
    std: float = 1.0

    def shift(self, like: Tensor) -> Tensor | float:
        """The mean, in a shape that broadcasts against ``like`` (B, C, ...)."""
        if isinstance(self.mean, float | int):
            return float(self.mean)
        if like.ndim < 2 or like.shape[1] != len(self.mean):
            raise ValueError(f"the prior has {len(self.mean)} channel means, the data has shape {tuple(like.shape)}")
        return like.new_tensor(self.mean).reshape(1, -1, *[1] * (like.ndim - 2))

    def from_noise(self, z: Tensor) -> Tensor:
        """Map standard normal ``z`` to a draw from the prior, same shape."""
        return z * self.std + self.shift(z)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density in nats, (B, ...) -> (B,)."""
        squared = ((x - self.shift(x)) / self.std).square().flatten(1).sum(1)
        return -0.5 * squared - x[0].numel() * (math.log(self.std) + 0.5 * math.log(2 * math.pi))


@attrs.frozen
class Transition:
    """The forward steps p(x_k | x_{k+1}) = N(scale x_{k+1}, std^2 I), one entry a step; k + 1 is nearer the data.

    ``backward_std`` is the noise that ancestral sampling adds on the way back: ``std`` unless given, the larger choice
    of Ho et al. 2020 (arXiv:2006.11239). ``drift`` is scale - 1, kept beside it because neither gives the other's last
    bits in float64.
    """

    scale: Tensor
    std: Tensor
    backward_std: Tensor = attrs.field(default=attrs.Factory(lambda self: self.std, takes_self=True))
    drift: Tensor = attrs.field(default=attrs.Factory(lambda self: self.scale - 1, takes_self=True))

    @classmethod
    def from_drift(cls, drift: Tensor, diffusion: Tensor) -> Transition:
        """The steps ``x_k = (1 + drift) x_{k+1} + diffusion z``."""
        return cls(1 + drift, diffusion, drift=drift)

    @property
    def diffusion(self) -> Tensor:
        """``std``, by the name that it had in ``Discretization``."""
        return self.std


Discretization = Transition.from_drift
"""The old name of a chain made from its drift and diffusion."""


_PATH = "samplers and losses read alpha and sigma; override those"


class SDE(Contract):
    """A Gaussian-path SDE. Give ``alpha`` and ``sigma``; override other methods where a paper has its own form.

    ``drift``, ``perturb``, ``level`` and ``scales`` cannot be overridden: they follow from the rest. ``t_min`` is the
    smallest time at which a score is evaluated (the papers' sampling eps), ``t_max`` the time at which sampling starts.
    """

    t_min: float = 1e-3
    t_max: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The signal scale, 1 at t = 0, positive before t_max."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The noise scale: the standard deviation of x_t given x_0."""

    @property
    def prior(self) -> GaussianPrior:
        """The distribution at the start of sampling: N(0, sigma(t_max)^2) unless overridden."""
        return GaussianPrior(std=float(self.float_level(self.t_max).sigma))

    @property
    def t_signal(self) -> float:
        """The latest time at which grids place levels: t_max, or t_max - t_min if there is no signal at t_max."""
        return self.t_max if self.float_level(self.t_max).alpha else self.t_max - self.t_min

    def drift_rate(self, t: Tensor) -> Tensor:
        """f(t) = d log alpha / dt, by differentiation unless overridden; the drift is f(t) x."""
        return _derivative(lambda u: self.alpha(u).log(), t)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) = sqrt(d sigma^2/dt - 2 f sigma^2), by differentiation unless overridden."""
        growth = _derivative(lambda u: self.sigma(u).square(), t)
        return (growth - 2 * self.drift_rate(t) * self.sigma(t).square()).clamp_min(0).sqrt()

    @derived("samplers read drift_rate, which is f in a drift f(t) x; override drift_rate, or alpha")
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(t) x for a batch ``x`` (B, ...) at times ``t`` (B,) or ()."""
        return expand(self.drift_rate(t), x) * x

    @derived(_PATH)
    def level(self, t: Tensor) -> Level:
        """The noise level at ``t``; its entries have the shape of ``t``."""
        return Level(t, self.alpha(t), self.sigma(t))

    @derived(_PATH)
    def float_level(self, t: float) -> Level:
        """The noise level at ``t`` as floats."""
        level = self.level(torch.tensor(t, dtype=torch.float64, device="cpu"))
        return Level(t, float(level.alpha), float(level.sigma))

    @derived(_PATH)
    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha', sigma') at ``t``: given x_0 and eps, x_t moves with the velocity alpha' x_0 + sigma' eps."""
        return _derivative(self.alpha, t), _derivative(self.sigma, t)

    @derived(_PATH)
    def perturb(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha(t) x + sigma(t) noise for times ``t`` (B,)."""
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * noise

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """log(sigma / alpha), which rises with t: minus half the logarithm of the signal-to-noise ratio."""
        return self.sigma(t).log() - self.alpha(t).log()

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        """The times in [t_min, t_max] of given log(sigma / alpha), float64: the inverse of :meth:`log_noise_ratio`.

        By bisection on log t to float64 precision, unless overridden in closed form (which must then follow any
        override of ``alpha`` or ``sigma``). Ratios beyond the ends give the ends.
        """
        low = torch.full_like(log_noise_ratio, t_min or self.t_min, dtype=torch.float64).log()
        high = torch.full_like(low, math.log(self.t_max))
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self.log_noise_ratio(middle.exp()) > log_noise_ratio
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (0.5 * (low + high)).exp()

    def transition(self, times: Tensor) -> Transition:
        """The exact transition over each step of decreasing ``times`` (N + 1,); time 0 is clean data."""
        alpha, sigma = self.scales(times)
        scale = alpha[:-1] / alpha[1:]
        # sigma_t^2 - a^2 sigma_s^2, as a product of sum and difference: exact when the two are close.
        ahead = scale * sigma[1:]
        std = ((sigma[:-1] - ahead) * (sigma[:-1] + ahead)).clamp_min(0).sqrt()
        return Transition(scale, std, std * sigma[1:] / sigma[:-1])

    def discretize(self, times: Tensor) -> Transition:
        """The chain that ``reverse_diffusion`` inverts: Euler-Maruyama unless a paper has its own.

        If any step is so coarse that the Euler chain would flip the sign of the signal (``drift <= -1``), or starts
        without signal, the whole grid uses the exact transition instead: the chain is finite for any number of steps.
        """
        dt = times[:-1] - times[1:]
        drift = self.drift_rate(times[:-1]) * dt
        if bool(((drift <= -1) | ~drift.isfinite()).any()):
            return self.transition(times)
        return Transition.from_drift(drift, self.diffusion(times[:-1]) * dt.sqrt())

    def discrete_level(self, t: Tensor, n: int) -> Level:
        """The level of ``t`` for a model trained on ``n`` discrete scales: the continuous one by default."""
        return self.level(t)

    @derived(_PATH)
    def scales(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` on a grid, with clean data (1, 0) at time 0."""
        data = times == 0
        return torch.where(data, 1.0, self.alpha(times)), torch.where(data, 0.0, self.sigma(times))


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.enable_grad():
        u = t.detach().clone().requires_grad_(True)
        value = function(u)
        if not value.requires_grad:
            return torch.zeros_like(t)
        (slope,) = torch.autograd.grad(value.sum(), u)
    return slope
