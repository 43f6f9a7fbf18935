r"""Parameterisations and label rules: what a network's output means, and how it is told the noise level.

A plugin adds its own to :data:`PARAMETERISATIONS` and :data:`LABELS` where it defines the network that needs it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor
from scoresde_core.errors import near_misses
from scoresde_core.sde import Form, Level, Scalar

Conversion = Callable[[Tensor, Tensor, Level], Tensor]


@attrs.frozen
class Parameterisation:
    """How the raw output of a network at ``x`` and a level is read: (raw, x, level) -> score.

    ``denoised`` reads it as E[x_0 | x], where alpha may be 0; None if that is impossible. ``input`` makes the network's
    input from (x, level).
    """

    name: str
    score: Conversion
    denoised: Conversion | None = None
    input: Callable[[Tensor, Level], Tensor] = lambda x, level: x


SIGMA_DATA = 0.5
"""The standard deviation of the data in EDM's preconditioning (arXiv:2206.00364, Table 1)."""


def _edm(raw: Tensor, x: Tensor, level: Level) -> Tensor:
    """D = c_skip x / alpha + c_out F with s = sigma / alpha, written to be finite at alpha = 0."""
    alpha, sigma, data = level.alpha, level.sigma, SIGMA_DATA
    variance = sigma**2 + (alpha * data) ** 2
    return x * (data**2 * alpha / variance) + raw * (sigma * data / variance**0.5)


PARAMETERISATIONS: dict[str, Parameterisation] = {
    each.name: each
    for each in (
        Parameterisation("score", lambda raw, x, at: raw),
        Parameterisation("noise", lambda raw, x, at: raw / -at.sigma),
        Parameterisation("denoised", lambda raw, x, at: (at.alpha * raw - x) / at.sigma**2, lambda raw, x, at: raw),
        # v = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512), for any alpha and sigma.
        Parameterisation(
            "v",
            lambda raw, x, at: (at.sigma * x + at.alpha * raw) / (-at.sigma * (at.alpha**2 + at.sigma**2)),
            lambda raw, x, at: (at.alpha * x - at.sigma * raw) / (at.alpha**2 + at.sigma**2),
        ),
        # u = eps - x_0, the velocity of rectified flow (arXiv:2209.03003), for any alpha and sigma.
        Parameterisation(
            "flow",
            lambda raw, x, at: (x + at.alpha * raw) / (-at.sigma * (at.alpha + at.sigma)),
            lambda raw, x, at: (x - at.sigma * raw) / (at.alpha + at.sigma),
        ),
        # EDM (arXiv:2206.00364, Eq. 7): the input c_in x / alpha has unit variance for data of that of SIGMA_DATA.
        Parameterisation(
            "edm",
            lambda raw, x, at: (at.alpha * _edm(raw, x, at) - x) / at.sigma**2,
            _edm,
            lambda x, at: x / (at.sigma**2 + (at.alpha * SIGMA_DATA) ** 2) ** 0.5,
        ),
    )
}
"""The meaning of a network's raw output, by name."""

LABELS: dict[str, Callable[[Level, int], Scalar]] = {
    "time": lambda level, scales: level.t * 999,
    "log_time": lambda level, scales: _log(level.t * 999),
    "index": lambda level, scales: level.t * (scales - 1),
    "sigma": lambda level, scales: level.sigma,
    "reverse_index": lambda level, scales: _round((1 - level.t) * (scales - 1)),
    "t": lambda level, scales: level.t,
    "log_ratio": lambda level, scales: 0.25 * _log(level.sigma / level.alpha),
    "log_half": lambda level, scales: _log(0.5 * level.sigma / level.alpha),
}
"""The time label of a network: (level, number of training scales) -> label. The published rules are ``time`` (VP and
sub-VP, continuous), ``log_time`` (its logarithm: score_sde's VP models with Fourier features, where ScoreFlow's have
``time``), ``index`` (VP, discrete), ``sigma`` (VE, continuous), ``reverse_index`` (VE, discrete: an integer, 0 the
highest noise), ``t`` (flow matching) and ``log_ratio`` (EDM: log(sigma / alpha) / 4)."""

_ALL: tuple[Form, ...] = ("scalar", "diagonal", "blocks", "nonlinear")
LABEL_FORMS: dict[str, tuple[Form, ...]] = {"time": _ALL, "log_time": _ALL, "t": _ALL}
"""The forms of processes whose label of a name is one number a row; a name without an entry serves scalar ones."""
PARAMETERISATION_FORMS: dict[str, tuple[Form, ...]] = {
    **dict.fromkeys(("v", "flow", "edm"), _ALL[:2]),
    **dict.fromkeys(("noise", "denoised"), _ALL[:3]),
    "score": _ALL,
}
"""The forms of processes in which a parameterisation is a score; one without an entry serves scalar ones."""

DISCRETE_LABELS = {"index", "reverse_index"}


def named_in(table: Mapping[str, Any]) -> Callable[[Any, Any, str], None]:
    """A validator that refuses names which are not in ``table``, as it is when the component is made."""

    def check(_: Any, field: Any, value: str) -> None:
        if value not in table:
            raise ValueError(f"unknown {field.alias} {value!r}.{near_misses(value, list(table))}")

    return check


def _round(value: Scalar) -> Scalar:
    return value.round() if isinstance(value, Tensor) else round(value)


def _log(value: Scalar) -> Scalar:
    return value.log() if isinstance(value, Tensor) else math.log(value)
