r"""Processes with one alpha and sigma for each channel, entry or frequency of an event, and mixtures under them.

In an orthonormal basis Q, c = a Q x_0 + sigma eps. With N = Q^T diag(sigma / a)^2 Q, the state Q^T (c / a) is x_0 with
noise of covariance N, so component k is

    N(mu_k, W_k W_k^T + S),   S = diag(psi) + N = L L^T

and z = L^-1 Q^T (c / a) has the components N(L^-1 mu_k, L^-1 W_k (L^-1 W_k)^T + I): a mixture of factor analysers
again, without noise of its own. One Cholesky factor a level, and two products more than for one coefficient a call.
"""

from collections import OrderedDict
from typing import Any, ClassVar, Self

import attrs
import torch
from attrs.validators import min_len
from torch import Tensor
from scoresde_core import param
from scoresde_core.frame import Basis, rotate
from scoresde_core.sde import SDE, Form, Level
from scoresde_core.shapes import expand
from ..song2021.sdes import VPSDE, SubVPSDE
from ..targets.mixture import MixtureOfFactorAnalysers

_CACHED = 8  # levels kept of each law, and laws


class DiagonalSDE(SDE):
    """A process with one alpha and sigma for each of ``parts`` of an event: of each channel, entry, or frequency.

    ``alpha(t)`` and ``sigma(t)`` append dimensions to those of ``t`` that broadcast against an event from its first
    axis: (C,) for one a channel, (1, H, W) for one a pixel. ``basis`` says in which coordinates they hold.
    """

    form: ClassVar[Form] = "diagonal"

    def skip(self, shape: tuple[int, ...]) -> str | None:
        own = tuple(self.alpha(torch.full((), 0.5, dtype=torch.float64)).shape)
        if len(own) <= len(shape) and all(a in (1, b) for a, b in zip(own, shape, strict=False)):
            return None
        name = type(self).__name__
        return f"{name} has coefficients of shape {own}, which do not broadcast against events of {shape}"

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """The mean of log(sigma / alpha) over an event: the clock of grids, which must rise with t."""
        return super().log_noise_ratio(t).flatten(t.ndim).mean(-1)

    def skip_target(self, target: Any) -> str | None:
        if hasattr(target, "as_mixture"):
            return None
        return f"{type(target).__name__} is no mixture of Gaussians, as {type(self).__name__} needs for an exact score"

    def score_of(self, target: Any, c: Tensor, level: Level, **known: Any) -> Tensor:
        return _law(target, self).score(c, level, **known)

    def coefficient(self, value: Any, x: Tensor | None) -> Any:
        assert x is not None
        return expand(value.unsqueeze(0), x).to(x.device)


@attrs.frozen
class PerChannelSDE(DiagonalSDE):
    """Channel i follows the i-th of ``sdes``; t_min is their largest, t_max their smallest.

    Such are data of several kinds in one event, whose natural scales or schedules differ.
    """

    sdes: tuple[SDE, ...] = param((VPSDE(), SubVPSDE()), "one process a channel", min_len(1))

    def __attrs_post_init__(self) -> None:
        for sde in self.sdes:
            if sde.form != "scalar" or sde.needs or sde.t_signal < sde.t_max:
                raise ValueError(f"each channel needs a process of one alpha > 0 and sigma, got {sde}")

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return max(sde.t_min for sde in self.sdes)

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return min(sde.t_max for sde in self.sdes)

    def until(self, t: float) -> Self:
        return attrs.evolve(self, sdes=tuple(sde.until(t) for sde in self.sdes))

    def skip(self, shape: tuple[int, ...]) -> str | None:
        if shape and shape[0] == len(self.sdes):
            return None
        return f"per_channel has {len(self.sdes)} processes, but events have shape {shape}: give one a channel"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.stack([sde.alpha(t) for sde in self.sdes], -1)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.stack([sde.sigma(t) for sde in self.sdes], -1)


class DiagonalLaw:
    """A mixture at diagonal levels in one basis; ``score`` takes states ``c`` in that basis."""

    def __init__(self, mixture: MixtureOfFactorAnalysers, basis: Basis) -> None:
        self.mixture, self.basis = mixture, basis
        self._levels: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor, MixtureOfFactorAnalysers]] = OrderedDict()

    def score(self, c: Tensor, level: Level, classes: Tensor | None = None) -> Tensor:
        """The score at ``c`` (B, *shape), in the basis; ``level`` has one time for all rows."""
        a, white, law = self._at(c, level)
        x = rotate(c / a.to(c.dtype), self.basis, inverse=True).flatten(1)
        z = (x * white if white.ndim == 1 else x @ white.T).reshape(c.shape)
        score = law.score(z, classes=classes).flatten(1)
        spread = rotate((score * white if white.ndim == 1 else score @ white).reshape(c.shape), self.basis)
        return spread / a.to(c.dtype)

    def _at(self, c: Tensor, level: Level) -> tuple[Tensor, Tensor, MixtureOfFactorAnalysers]:
        """a (1, *shape), L^-1 as (D,) or (D, D), and the mixture of z."""
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64, device=c.device) for v in (level.alpha, level.sigma))
        if (alpha.ndim == c.ndim and len(alpha) > 1) or (isinstance(level.t, Tensor) and level.t.numel() > 1):
            raise ValueError("an exact law with one coefficient an entry needs one time for all rows")
        key = (float(level.t), c.dtype)
        if key not in self._levels:
            self._levels[key] = self._whitened(alpha, sigma, c)
            if len(self._levels) > _CACHED:
                self._levels.popitem(last=False)
        return self._levels[key]

    def _whitened(self, alpha: Tensor, sigma: Tensor, c: Tensor) -> tuple[Tensor, Tensor, MixtureOfFactorAnalysers]:
        law, dim = self.mixture, len(self.mixture.noise)
        variance = (sigma / alpha).square().expand(1, *c.shape[1:])
        if any(matrix is not None for matrix in self.basis):
            eye = torch.eye(dim, dtype=torch.float64, device=c.device)
            rows = rotate(eye.reshape(dim, *c.shape[1:]), self.basis)
            spread = (rows * variance).flatten(1) @ rows.flatten(1).T
            lower = torch.linalg.cholesky(law.noise.diag() + spread)
            white = torch.linalg.solve_triangular(lower, eye, upper=False)
            means, factors = law.means @ white.T, law.factors @ white.T
        else:
            white = (law.noise + variance.flatten()).rsqrt()
            means, factors = law.means * white, law.factors * white
        one = torch.ones_like(law.noise)
        found = MixtureOfFactorAnalysers(law.weights, means, factors, one, law.shape, dtype=c.dtype)
        return alpha.expand(1, *c.shape[1:]), white.to(c.dtype), found


_laws: OrderedDict[tuple[int, DiagonalSDE], tuple[Any, DiagonalLaw]] = OrderedDict()


def _law(target: Any, sde: DiagonalSDE) -> DiagonalLaw:
    """The law of a target in the basis of a process, which caches its levels; kept by the identity of the target."""
    key = (id(target), sde)
    if key not in _laws:
        _laws[key] = target, DiagonalLaw(target.as_mixture(), sde.basis)
        if len(_laws) > _CACHED:
            _laws.popitem(last=False)
    return _laws[key][1]
