"""SDEs: alpha, sigma, drift and diffusion describe one process, which ends in its prior.

The marginals are compared with the moment equations of the SDE itself, integrated from t_min to t:

    alpha(t) / alpha(t_min) = exp int f ds,        sigma^2/alpha^2 (t) - sigma^2/alpha^2 (t_min) = int g^2/alpha^2 ds

All other methods of the contract follow from alpha and sigma, and are compared with them, overridden or not. A
published discretisation need not be exact, so it is compared with the SDE in the limit of many steps.
"""

import math
from collections.abc import Callable
from functools import partialmethod, wraps
from itertools import product
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from scoresde_core import SDE, GaussianPrior
from .candidate import Candidate, Check, Skip
from .expect import agree

STEPS, ENTRIES = 50_000, 10_000
"""Steps of a chain and entries of a table at which both must agree with the SDE."""
CHAIN = 5e-3  # allowed relative error of a chain of that many steps
COEFFICIENTS = ("alpha", "sigma", "drift_rate", "diffusion")


class _Entry(SDE):
    """One entry of a process with one alpha and sigma an entry, as a process of its own."""

    def __init__(self, sde: SDE, index: int) -> None:
        self.sde, self.index, self.t_min, self.t_max = sde, index, sde.t_min, sde.t_max

    def _own(self, name: str, t: Tensor) -> Tensor:
        return self._entry(getattr(self.sde, name)(t).flatten(t.ndim))

    def _entry(self, flat: Tensor) -> Tensor:
        return flat[..., min(self.index, flat.shape[-1] - 1)]

    alpha: Any = partialmethod(_own, "alpha")
    sigma: Any = partialmethod(_own, "sigma")
    drift_rate: Any = partialmethod(_own, "drift_rate")
    diffusion: Any = partialmethod(_own, "diffusion")

    @property
    def prior(self) -> GaussianPrior:
        return GaussianPrior(std=float(self._entry(torch.as_tensor(self.sde.prior.std).flatten())))


def _entries(candidate: Candidate) -> list[SDE]:
    """The process, or the first, middle and last of its entries; :class:`Skip` for other coefficients."""
    sde: SDE = candidate.component
    if sde.form not in ("scalar", "diagonal"):
        raise Skip(f"it has {sde.form} coefficients")
    told = f"t_min is {sde.t_min} and t_max {sde.t_max}, expected 0 < t_min < t_max <= 1"
    assert 0 < sde.t_min < sde.t_signal <= sde.t_max <= 1, told
    if sde.form == "scalar":
        return [sde]
    count = sde.alpha(torch.full((), 0.5, dtype=torch.float64)).numel()
    return [_Entry(sde, index) for index in sorted({0, count // 2, count - 1})]


def _of_each_entry(check: Callable[[SDE], None]) -> Check:
    """A check of a candidate from one of a process with one alpha and sigma."""

    @wraps(check)
    def checked(candidate: Candidate) -> None:
        for sde in _entries(candidate):
            check(sde)

    checked.__annotations__ = {"candidate": "Candidate", "return": "None"}
    return checked


def _times(sde: SDE, count: int = 201) -> Tensor:
    """Return times from t_min to t_signal, denser towards t_min."""
    times = torch.linspace(math.log(sde.t_min), math.log(sde.t_signal), count, dtype=torch.float64).exp()
    return times.clamp(sde.t_min, sde.t_signal)


def _integrals(sde: SDE) -> tuple[Tensor, Tensor, Tensor]:
    """Return times (P,) and the integrals of f and of g^2/alpha^2 from t_min to them, by Gauss-Legendre quadrature.

    They are the ends of panels from t_min to t_signal, which shrink towards both ends.
    """
    first, last = torch.tensor([sde.t_min, min(sde.t_signal, 1 - 1e-7)], dtype=torch.float64).logit().tolist()
    inner = torch.linspace(first, last, 150, dtype=torch.float64).sigmoid().clamp(sde.t_min, sde.t_signal)
    ends = torch.cat([inner, inner.new_tensor([sde.t_signal])]).sort().values
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(16))
    half = 0.5 * ends.diff().unsqueeze(1)
    t = ends[:-1].unsqueeze(1) + half * (1 + nodes)
    rates = sde.drift_rate(t.flatten()).reshape_as(t), (sde.diffusion(t.flatten()) / sde.alpha(t.flatten())).square()
    sums = [(half * weights * rate.reshape_as(t)).sum(1).cumsum(0) for rate in rates]
    return ends[1:], sums[0], sums[1]


def _fits(told: str, t: Tensor, found: Tensor, expected: Tensor, slack: Tensor | float, source: str = "") -> None:
    """Two functions of ``t`` differ by at most ``slack``; else ``told``, with the worst time, begins the sentence."""
    beyond = ((found - expected).abs() - slack).nan_to_num(math.inf)
    k = int(beyond.argmax())
    where = told.format(float(t[k]))
    assert float(beyond[k]) <= 0, f"{where} is {float(found[k]):.8g}, expected {float(expected[k]):.8g}{source}"


@_of_each_entry
def alpha_fits_the_drift(sde: SDE) -> None:
    """alpha solves d alpha/dt = f alpha, to 1e-6."""
    t, drift, _ = _integrals(sde)
    expected = sde.alpha(torch.tensor(sde.t_min, dtype=torch.float64)) * drift.exp()
    told = "drift_rate disagrees with alpha: at t = {:.4g} alpha"
    _fits(told, t, sde.alpha(t), expected, 1e-6 * expected, " from exp of its integral")


@_of_each_entry
def sigma_fits_the_diffusion(sde: SDE) -> None:
    """sigma^2 solves d sigma^2/dt = 2 f sigma^2 + g^2, to 1e-6."""
    t, _, growth = _integrals(sde)
    start = torch.tensor(sde.t_min, dtype=torch.float64)
    expected = sde.alpha(t) * ((sde.sigma(start) / sde.alpha(start)).square() + growth).sqrt()
    told = "diffusion disagrees with sigma: at t = {:.4g} sigma"
    _fits(told, t, sde.sigma(t), expected, 1e-6 * expected, " from the moment equation")


@_of_each_entry
def starts_at_the_data(sde: SDE) -> None:
    """sigma(0) is at most a tenth, alpha(0) is 1 but for the signal that this noise replaces, alpha stays positive."""
    zero = torch.zeros((), dtype=torch.float64)
    alpha, sigma, lowest = float(sde.alpha(zero)), float(sde.sigma(zero)), float(sde.alpha(_times(sde)).min())
    assert 0 <= sigma <= 0.1, f"sigma(0) is {sigma}, expected between 0 and 0.1"
    assert abs(alpha - 1) <= 1e-6 + sigma**2, f"alpha(0) is {alpha}, expected 1"
    assert lowest > 0, f"alpha falls to {lowest}, expected a positive alpha at every time before t_max"


@_of_each_entry
def noise_grows(sde: SDE) -> None:
    """sigma / alpha increases from t_min to t_max, and sigma does not decrease, unless it is a bridge to y."""
    t = _times(sde)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    for name, steps in (("sigma", sigma.diff()), ("sigma / alpha", (sigma / alpha).diff())):
        k = int(steps.argmin())
        falls = steps[k] < 0 and not sde.needs if name == "sigma" else not steps[k] > 0
        assert not falls, f"{name} changes by {float(steps[k]):.3g} from t = {float(t[k]):.4g} to {float(t[k + 1]):.4g}"


@_of_each_entry
def log_noise_ratio_is_of_alpha_and_sigma(sde: SDE) -> None:
    """log_noise_ratio is log(sigma / alpha), to 1e-9."""
    t = _times(sde)
    expected = sde.sigma(t).log() - sde.alpha(t).log()
    told = "log_noise_ratio disagrees with alpha and sigma: at t = {:.4g} it"
    _fits(told, t, sde.log_noise_ratio(t), expected, 1e-9 * (1 + float(expected.abs().max())), ", log(sigma / alpha)")


@_of_each_entry
def time_at_inverts_the_noise(sde: SDE) -> None:
    """time_at returns the time of log(sigma / alpha), to 1e-6, within [t_min, t_max], also for a given t_min."""
    for t_min in (None, 0.1 * sde.t_min):
        ends = math.log(t_min or sde.t_min), math.log(sde.t_signal)
        t = torch.linspace(*ends, 201, dtype=torch.float64).exp()
        given = f", t_min={t_min:.3g}" if t_min else ""
        told = f"time_at disagrees with alpha and sigma: at log(sigma / alpha) of t = {{:.8g}}{given} it"
        _fits(told, t, sde.time_at(sde.sigma(t).log() - sde.alpha(t).log(), t_min), t, 1e-6 * t)
        beyond = sde.time_at(torch.tensor([-50.0, 50.0], dtype=torch.float64), t_min).tolist()
        lowest, highest = (t_min or sde.t_min) * (1 - 1e-6), sde.t_max + 1e-6
        assert lowest <= beyond[0] <= beyond[1] <= highest, f"time_at leaves [t_min, t_max]{given}: {beyond}"


@_of_each_entry
def forgets_the_data(sde: SDE) -> None:
    """At t_max at most 0.005 nats per dimension of unit-variance data are left."""
    if sde.needs:
        return  # what is left of the data is in y as well
    end = sde.float_level(sde.t_max)
    left = 0.5 * math.log1p((float(end.alpha) / float(end.sigma)) ** 2)
    assert left <= 5e-3, f"x_1 still has {left:.2g} nats per dimension of the data, expected at most 0.005"


@_of_each_entry
def prior_is_the_marginal(sde: SDE) -> None:
    """The prior's std is that of x_1 to 0.1 %, and its KL from x_1 of unit-variance data at most 0.001 nats."""
    end = sde.float_level(sde.t_max)
    alpha, sigma, std = float(end.alpha), float(end.sigma), sde.prior.std
    spread = math.hypot(alpha, sigma)
    told = f"the prior's std is {std:.6g}, but at t_max sigma is {sigma:.6g}, and {spread:.6g} with unit-variance data"
    assert 0.999 * sigma <= std <= 1.001 * spread, told
    if sde.needs:
        return  # its mean takes y for the data
    means = sde.prior.mean if isinstance(sde.prior.mean, tuple) else (sde.prior.mean,)
    ratio, shift = spread**2 / std**2, sum(mean**2 for mean in means) / len(means) / std**2
    divergence = 0.5 * (ratio + shift - 1 - math.log(ratio))
    why = f"the prior N({sde.prior.mean}, {std:.4g}^2) is {divergence:.2g} nats per dimension from x_1 of unit-variance"
    assert divergence <= 1e-3, f"{why} data, expected at most 0.001"


@_of_each_entry
def prior_density_is_normal(sde: SDE) -> None:
    """prior.log_prob is that of torch.distributions.Normal, and prior.from_noise draws from it."""
    prior = sde.prior
    channels = len(prior.mean) if isinstance(prior.mean, tuple) else 3
    z = torch.randn(4, channels, 5, dtype=torch.float64)
    mean = torch.as_tensor(prior.mean, dtype=torch.float64).expand(channels).reshape(-1, 1)
    x = prior.from_noise(z)
    assert torch.allclose(x, mean + prior.std * z), "prior.from_noise(z) is not mean + std z"
    found = prior.log_prob(x)
    normal: Any = torch.distributions.Normal(mean, prior.std)
    expected = normal.log_prob(x).sum((1, 2))
    agree(found, expected, 1e-9 * float(expected.abs().max()), "prior.log_prob is off in nats by")


@_of_each_entry
def keeps_dtype_and_device(sde: SDE) -> None:
    """Functions of t return the shape, dtype and device of t."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device, dtype, shape in product(devices, (torch.float32, torch.float64), ((), (3,))):
        t = torch.full(shape, 0.5, device=device, dtype=dtype)
        for name in COEFFICIENTS:
            value = getattr(sde, name)(t)
            found, expected = (tuple(value.shape), value.dtype, value.device.type), (shape, dtype, device)
            assert found == expected, f"{name}(t) is {found}, expected {expected}, as t is"


@_of_each_entry
def is_accurate_in_float32(sde: SDE) -> None:
    """Near t_min, float32 agrees with float64 to 2e-5: no cancellation (expm1 instead of 1 - exp)."""
    t = _times(sde).float()
    for name in COEFFICIENTS:
        found, expected = getattr(sde, name)(t).double(), getattr(sde, name)(t.double())
        slack = 2e-5 * expected.abs().clamp_min(1e-12)
        _fits(f"{name}({{:.3g}}) in float32", t, found, expected, slack, " from float64")


@_of_each_entry
def transition_composes(sde: SDE) -> None:
    """Off a paper's own grid the transition is exact: it maps marginals to marginals, and two steps compose to one."""
    times = torch.tensor([0.93 * sde.t_max, 0.71, 0.36, max(0.2, sde.t_min), 0.0], dtype=torch.float64)
    alpha, sigma = sde.scales(times)
    chain = sde.transition(times)
    _equal("scale alpha_s", chain.scale * alpha[1:], alpha[:-1])
    _equal("scale^2 sigma_s^2 + std^2", (chain.scale * sigma[1:]).square() + chain.std.square(), sigma[:-1].square())
    _equal("backward_std", chain.backward_std * sigma[:-1], chain.std * sigma[1:])
    whole = sde.transition(times[[0, 2, 4]])
    first, second = slice(0, None, 2), slice(1, None, 2)
    _equal("two scales", chain.scale[first] * chain.scale[second], whole.scale)
    spread = (chain.scale[first] * chain.std[second]).square() + chain.std[first].square()
    _equal("two steps' variance", spread, whole.std.square())


def _equal(name: str, found: Tensor, expected: Tensor) -> None:
    gap = (found - expected).abs() / expected.abs().clamp_min(1e-12)
    assert bool((gap <= 1e-9).all()), f"{name} of the transition is {found.tolist()}, expected {expected.tolist()}"


@_of_each_entry
def chains_are_finite(sde: SDE) -> None:
    """In 1 to 50 even steps chains are finite, without negative noise; backward_std is at most std but in a bridge."""
    for steps in range(1, 51):
        times = _uniform(sde, steps)
        exact = sde.transition(times)
        excess = float((exact.backward_std - exact.std * (1 + 1e-9)).max())
        assert excess <= 0 or sde.needs, f"backward_std of transition is above its std by {excess:.3g} in {steps} steps"
        for method, chain in (("discretize", sde.discretize(times)), ("transition", exact)):
            for name, value in attrs.asdict(chain).items():
                wrong = ~value.isfinite() | (value < 0 if name.endswith("std") else False)
                assert not bool(wrong.any()), f"{name} of {method} is {value.tolist()} in {steps} steps"


@_of_each_entry
def chain_tends_to_the_sde(sde: SDE) -> None:
    """In 50,000 steps discretize and transition are f dt and g sqrt(dt), to 0.5 %, except the last step, to clean data.

    Times near t_max are left out if there is no signal, or y takes its place. Rates are those at a time within t_min of
    the step's: the published tables are read at evenly spaced times from 1 to 0.
    """
    times = _uniform(sde, STEPS)
    now, dt = times[:-1], -times.diff()
    edge = 0.05 if sde.t_signal < sde.t_max or sde.needs else 0.0
    inner = (now > max(0.02, 2 * sde.t_min)) & (now < sde.t_signal - edge)
    now, dt = now[inner], dt[inner]
    chain, exact = sde.discretize(times), sde.transition(times)
    shifts = (now + side * (sde.t_min + 2 / STEPS) for side in (-1, 0, 1))
    inside = (t.clamp(sde.t_min, sde.t_max) for t in shifts)
    rates = [(sde.drift_rate(t), sde.diffusion(t)) for t in inside]
    drifts, diffusions = (torch.stack(parts) for parts in zip(*rates, strict=True))
    for name, values, rate, allowed in (
        ("the drift of discretize", chain.drift[inner] / dt, "drift_rate", drifts),
        ("the scale - 1 of transition", (exact.scale[inner] - 1) / dt, "drift_rate", drifts),
        ("the std of discretize", chain.std[inner] / dt.sqrt(), "diffusion", diffusions),
        ("the std of transition", exact.std[inner] / dt.sqrt(), "diffusion", diffusions),
        ("the backward_std of transition", exact.backward_std[inner] / dt.sqrt(), "diffusion", diffusions),
    ):
        size = drifts.abs().max() if allowed is drifts else diffusions[1]
        told = f"{name} disagrees with {rate}: in {STEPS} steps at t = {{:.4g}} it"
        _within(told, now, values, allowed, CHAIN * size)


@_of_each_entry
def discrete_levels_tend_to_the_sde(sde: SDE) -> None:
    """The level of a model trained on 10,000 discrete scales is the continuous one, at most 5 entries away."""
    t = torch.linspace(0.1, 0.95, 18, dtype=torch.float64)
    table = sde.discrete_level(t, ENTRIES)
    for name in ("alpha", "sigma"):
        around = torch.stack([getattr(sde, name)(t + side * 5 / ENTRIES) for side in (-1, 0, 1)])
        told = f"discrete_level disagrees with {name}: of {ENTRIES} scales, up to 5 entries from t = {{:.2g}}, it"
        _within(told, t, getattr(table, name), around)


def _within(told: str, t: Tensor, found: Tensor, around: Tensor, slack: Tensor | float = 0.0) -> None:
    """A function of ``t`` lies between the least and the largest of those ``around`` it, but for ``slack``."""
    low, high = around.amin(0), around.amax(0)
    _fits(told, t, found, 0.5 * (low + high), 0.5 * (high - low) + slack + 1e-9)


def _uniform(sde: SDE, steps: int) -> Tensor:
    """Return the published grid: evenly spaced from t_max to t_min, then 0."""
    times = torch.linspace(sde.t_max, sde.t_min, steps, dtype=torch.float64)
    return torch.cat([times, times.new_zeros(1)])
