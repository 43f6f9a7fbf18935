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

An SDE may have more than one alpha and sigma: one an entry, or matrices of coupled variables. The widest contract is
:class:`Process`, with any drift f(x, t).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar, Literal, Self

import attrs
import torch
from torch import Tensor
from .contract import Contract, derived
from .errors import UsageError
from .frame import Basis, Frame, rotate
from .noise import Noise
from .shapes import expand

Scalar = float | Tensor
"""A float, or a tensor that broadcasts against the state (0-dim, one value per row, or one an entry)."""

Form = Literal["scalar", "diagonal", "blocks", "nonlinear"]
"""What the coefficients of a process are; samplers and losses declare the forms that they serve."""


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
    """N(mean, std^2) over states of any shape; a tuple holds one value for each of equal parts of dimension 1.

    So a tuple is one value per channel, or one for positions and one for velocities. A tensor broadcasts.
    """

    mean: float | tuple[float, ...] | Tensor = 0.0
    std: Any = 1.0  # float | tuple[float, ...] | Tensor

    def shift(self, like: Tensor) -> Tensor | float:
        """The mean, in a shape that broadcasts against ``like`` (B, C, ...)."""
        return _in_parts(self.mean, like, "means")

    def from_noise(self, z: Tensor) -> Tensor:
        """Map standard normal ``z`` to a draw from the prior, same shape."""
        return z * _in_parts(self.std, z, "standard deviations") + self.shift(z)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density in nats, (B, ...) -> (B,)."""
        std = _in_parts(self.std, x, "standard deviations")
        squared = ((x - self.shift(x)) / std).square().flatten(1).sum(1)
        if isinstance(std, Tensor):
            return -0.5 * squared - std.log().expand_as(x[:1]).sum() - x[0].numel() * 0.5 * math.log(2 * math.pi)
        return -0.5 * squared - x[0].numel() * (math.log(std) + 0.5 * math.log(2 * math.pi))


def _in_parts(value: float | tuple[float, ...] | Tensor, like: Tensor, what: str) -> Tensor | float:
    """A value of a prior, in a shape that broadcasts against ``like``."""
    if isinstance(value, float | int):
        return float(value)
    if isinstance(value, Tensor):
        return expand(value.to(like), like)
    if like.ndim < 2 or like.shape[1] % len(value):
        raise ValueError(f"the prior has {len(value)} channel {what}, the data has shape {tuple(like.shape)}")
    spread = like.new_tensor(value).repeat_interleave(like.shape[1] // len(value))
    return spread.reshape(1, -1, *[1] * (like.ndim - 2))


@attrs.frozen
class Transition:
    """The forward steps p(x_k | x_{k+1}) = N(scale x_{k+1}, std^2 I), one entry a step; k + 1 is nearer the data.

    ``backward_std`` is the noise that ancestral sampling adds on the way back: ``std`` unless given, the larger choice
    of Ho et al. 2020 (arXiv:2006.11239). ``drift`` is scale - 1, whose last bits in float64 ``scale`` does not give.
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


class Process(Contract):
    """A forward process dx = f(x, t) dt + G(t) dw. Give ``drift``, ``diffusion`` and ``prior``.

    ``t_min`` is the smallest time at which a score is evaluated (the papers' sampling eps), ``t_max`` the time at which
    sampling starts. ``needs`` names what the process must know of each event, such as "y"; :meth:`given` binds it.
    """

    form: ClassVar[Form] = "nonlinear"
    needs: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[int] = 1
    """The number of coupled variables of a state; the first is the data."""
    t_min: float = 1e-3
    t_max: float = 1.0
    _known: Mapping[str, Tensor] = {}

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t) for a batch ``x`` (B, ...) at times ``t`` (B,) or ()."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), of the shape of ``t``."""

    @property
    @abstractmethod
    def prior(self) -> Any:
        """The distribution at the start of sampling: a :class:`GaussianPrior`, or what has its methods."""

    @property
    def frame(self) -> Frame | None:
        """The coordinates in which the process is ``alpha c_0 + sigma eps``; None for those of the events."""
        return None

    @property
    def t_signal(self) -> float:
        """The latest time at which grids place levels."""
        return self.t_max

    def state_shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a state for events of a shape."""
        return (event[0] * self.parts, *event[1:])

    def given(self, **known: Tensor) -> Self:
        """The process that knows ``known`` of each sample: tensors with one row a sample."""
        if wrong := set(known) - set(self.needs):
            raise UsageError(f"{type(self).__name__} takes nothing called {', '.join(sorted(wrong))}")
        return self._with(_known=known)

    def until(self, t: float) -> Self:
        """The process up to ``t``, where sampling then starts."""
        return self._with(t_max=t)

    def _with(self, **changes: Any) -> Self:
        """A copy with these attributes, which are no fields, and with those that were changed before."""
        other = copy(self)
        kept = {name: value for name, value in vars(self).items() if name in ("_known", "t_max", "t_min")}
        for name, value in {**kept, **changes}.items():
            object.__setattr__(other, name, value)
        return other

    def rows(self, index: Tensor) -> Self:
        """The process of the samples ``index`` (N,) among its samples."""
        return self.given(**{name: value[index.to(value.device)] for name, value in self._known.items()})

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why the process has no states for events of ``shape``, or None."""
        return None

    def fault(self) -> str | None:
        """Why the coefficients are those of no process that can be reversed, with the remedy; or None."""
        return None

    def lacks(self) -> str | None:
        """What the process needs and was not given, with the remedy; or None."""
        missing = ", ".join(name for name in self.needs if name not in self._known)
        remedy = f"call process.given({missing}=...), or take a target that has it"
        return f"{type(self).__name__} needs {missing}: {remedy}" if missing else None

    def level_at(self, t: float, x: Tensor) -> Level:
        """The noise level at ``t`` of a batch ``x`` (B, ...); a process without alpha and sigma has the time alone."""
        return Level(t, math.nan, math.nan)

    def complete(self, x: Tensor, noise: Noise, t_min: float) -> tuple[Tensor, Tensor | float]:
        """Events as states at ``t_min``, added variables drawn from their law; and the log density of these (B,)."""
        return (self.frame.lift(x) if self.frame else x), 0.0

    def skip_target(self, target: Any) -> str | None:
        """Why a target has no exact score under this process, or None."""
        return f"{type(self).__name__} is known by simulation alone and has no exact score: train a network, loss ssm"

    def score_of(self, target: Any, c: Tensor, level: Level, **known: Any) -> Tensor:
        """The exact score of a target at a state in the frame; :meth:`skip_target` says where there is none."""
        raise UsageError(str(self.skip_target(target)))

    def levels(self, times: Tensor, x: Tensor | None) -> list[Level]:
        """The noise levels of a sampler's ``times``, 0 the data."""
        return [Level(t, math.nan, math.nan) if t else DATA for t in times.tolist()]

    def step_numbers(self, times: Tensor, x: Tensor | None) -> dict[str, list[Any]]:
        """The numbers of each step on decreasing ``times`` (N + 1,), by the names of a :class:`~.schedule.Step`."""
        return {"diffusion": self.diffusion(times[:-1]).tolist()}


class SDE(Process):
    """A Gaussian-path SDE. Give ``alpha`` and ``sigma``; override other methods where a paper has its own form.

    A process that moves to an observation y says ``needs = ("y",)``: x_t = alpha x_0 + (1 - alpha) y + sigma eps.
    ``drift``, ``perturb``, ``level`` and ``scales`` cannot be overridden: they follow from the rest.
    """

    form: ClassVar[Form] = "scalar"

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The signal scale, 1 at t = 0, positive before t_max."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The noise scale: the standard deviation of x_t given x_0."""

    def centre(self, t: Tensor) -> Tensor:
        """m(t), how far the mean has moved to y: 1 - alpha(t), so that an event which is its own y stays there."""
        return 1 - self.alpha(t)

    @property
    def basis(self) -> Basis:
        """The orthonormal basis in which alpha and sigma hold, one matrix an axis; () for that of the events."""
        return ()

    @property
    def frame(self) -> Frame | None:
        if "y" in self.needs:
            if reason := self.lacks():
                raise UsageError(reason)
            return Frame(self.basis, self.centre, self._known["y"])
        return Frame(self.basis) if self.basis else None

    @property
    def prior(self) -> GaussianPrior:
        """The distribution at the start of sampling, in the frame: N(0, sigma(t_max)^2) unless overridden.

        With an observation y its mean is alpha(t_max) Q y, which takes y for the data.
        """
        end = self.level(torch.tensor(self.t_max, dtype=torch.float64, device="cpu"))
        alpha, sigma = torch.as_tensor(end.alpha), torch.as_tensor(end.sigma)
        std = sigma.unsqueeze(0) if sigma.ndim else float(sigma)
        if "y" not in self._known:
            return GaussianPrior(std=std)
        y = rotate(self._known["y"], self.basis)
        return GaussianPrior(expand(alpha.unsqueeze(0), y).to(y) * y, std)

    @property
    def t_signal(self) -> float:
        """The latest time at which grids place levels: t_max, or t_max - t_min if there is no signal at t_max."""
        signal = self.alpha(torch.tensor(self.t_max, dtype=torch.float64, device="cpu"))
        return self.t_max if bool((signal != 0).all()) else self.t_max - self.t_min

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
    def level_at(self, t: float, x: Tensor) -> Level:
        """The noise level at ``t`` of a batch ``x`` (B, ...): floats, or what multiplies ``x``."""
        level = self.level(torch.tensor(t, dtype=torch.float64, device="cpu"))
        return Level(t, self.coefficient(level.alpha, x), self.coefficient(level.sigma, x))

    def fault(self) -> str | None:
        t = torch.linspace(math.log(self.t_min), math.log(self.t_signal), 65, dtype=torch.float64).exp()
        name, alpha, sigma = type(self).__name__, self.alpha(t), self.sigma(t)
        if any(a != b and 1 not in (a, b) for a, b in zip(alpha.shape[:0:-1], sigma.shape[:0:-1], strict=False)):
            shapes = f"alpha of shape {tuple(alpha.shape[1:])} and sigma of shape {tuple(sigma.shape[1:])}"
            return f"{name} has {shapes}, which do not broadcast: give both one value an entry, or one for all"
        rises = self.log_noise_ratio(t).diff() > 0
        if bool(rises.all()):
            return None
        at, after = t[(k := int(rises.int().argmin())) : k + 2].tolist()
        levels = ", ".join(f"{float(value[k + n].flatten()[0]):.3g}" for value in (alpha, sigma) for n in (0, 1))
        where = f"between t = {at:.3g} and {after:.3g} (alpha and sigma at both: {levels})"
        return f"{name}: sigma / alpha does not rise {where}: let it, with sigma > 0 from t_min to t_max"

    def skip_target(self, target: Any) -> str | None:
        if "y" in self.needs and not hasattr(target, "given"):
            return f"{type(self).__name__} needs an observation y of each event: take the target observed[of=...]"
        return None

    def score_of(self, target: Any, c: Tensor, level: Level, **known: Any) -> Tensor:
        return target.score(c, level, **known)  # type: ignore[no-any-return]

    def coefficient(self, value: Any, x: Tensor | None) -> Any:
        """A coefficient at one time, as a sampler multiplies a batch ``x`` by it: a float."""
        return float(value)

    def row_coefficient(self, value: Any, x: Tensor) -> Any:
        """A coefficient at one time per row, in a shape that broadcasts against ``x``, in its dtype."""
        return expand(torch.as_tensor(value), x).to(x.dtype)

    def levels(self, times: Tensor, x: Tensor | None) -> list[Level]:
        alpha, sigma = (self._coefficients(value, x) for value in self.scales(times))
        levels = [Level(*row) for row in zip(times.tolist(), alpha, sigma, strict=True)]
        return [*levels[:-1], DATA] if levels[-1].t == 0 else levels

    def step_numbers(self, times: Tensor, x: Tensor | None) -> dict[str, list[Any]]:
        chain, exact = self.discretize(times), self.transition(times)
        columns = {
            "drift_rate": self.drift_rate(times[:-1]),
            "diffusion": self.diffusion(times[:-1]),
            "discrete_drift": chain.drift,
            "discrete_diffusion": chain.std,
            "transition_scale": exact.scale,
            "transition_std": exact.std,
            "backward_std": exact.backward_std,
        }
        return {name: self._coefficients(column, x) for name, column in columns.items()}

    def _coefficients(self, column: Tensor, x: Tensor | None) -> list[Any]:
        if column.ndim == 1:
            return column.tolist()
        if x is None:
            raise ValueError(f"a schedule of {type(self).__name__} needs the state: Schedule(sde, times, x)")
        return [self.coefficient(value, x) for value in column]

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
        override of ``alpha`` or ``sigma``); a few times by sections of 64, in a tenth of the calls. Ratios beyond the
        ends give the ends.
        """
        low = torch.full_like(log_noise_ratio, t_min or self.t_min, dtype=torch.float64).log()
        width = math.log(self.t_max) - low
        bits = 6 if low.numel() < 8 else 1
        inner = torch.arange(1, 2**bits, dtype=torch.float64, device=low.device)
        for _ in range(60 // bits):
            width = width / 2**bits
            tried = low.unsqueeze(-1) + width.unsqueeze(-1) * inner
            found = self.log_noise_ratio(tried.exp().flatten()).reshape(tried.shape)
            low = low + width * (~(found > log_noise_ratio.unsqueeze(-1))).sum(-1)
        t = (low + 0.5 * width).exp().clamp_max(self.t_max)
        if not log_noise_ratio.requires_grad:
            return t
        # A step of Newton's method from the root: it moves nothing, and has the derivative of the inverse.
        return t + (log_noise_ratio - self.log_noise_ratio(t)) / _derivative(self.log_noise_ratio, t)

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
        rate = self.drift_rate(times[:-1])
        dt = expand(times[:-1] - times[1:], rate)
        drift = rate * dt
        if not bool((drift > -1).all()):  # or infinite
            return self.transition(times)
        return Transition.from_drift(drift, self.diffusion(times[:-1]) * dt.sqrt())

    def discrete_level(self, t: Tensor, n: int) -> Level:
        """The level of ``t`` for a model trained on ``n`` discrete scales: the continuous one by default."""
        return self.level(t)

    @derived(_PATH)
    def scales(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` on a grid, with clean data (1, 0) at time 0."""
        alpha, sigma = self.alpha(times), self.sigma(times)
        data = expand(times == 0, alpha)
        return torch.where(data, 1.0, alpha), torch.where(data, 0.0, sigma)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.enable_grad():
        u = t.detach().clone().requires_grad_(True)
        value = function(u)
        if not value.requires_grad:
            return torch.zeros_like(value)
        if value.shape == t.shape:
            (slope,) = torch.autograd.grad(value.sum(), u)
            return slope
        # Several coefficients of one time: sum_k v_k dc_k/dt is linear in v, and its slope in v is dc/dt.
        v = torch.zeros_like(value, requires_grad=True)
        (along,) = torch.autograd.grad(value, u, v, create_graph=True)
        (slope,) = torch.autograd.grad(along.sum(), v)
    return slope
