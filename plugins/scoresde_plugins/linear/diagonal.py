"""Processes with one alpha and sigma for each channel, entry or frequency of an event."""

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor
from scoresde_core.sde import SDE, Form, GaussianPrior, Level
from scoresde_core.shapes import expand
from ..targets.diagonal import DiagonalLaw


class DiagonalSDE(SDE):
    """A process with one alpha and sigma for each of ``parts`` of an event: of each channel, entry, or frequency.

    ``alpha(t)`` and ``sigma(t)`` append dimensions to those of ``t`` that broadcast against an event from its first
    axis: (C,) for one a channel, (1, H, W) for one a pixel. ``basis`` says in which coordinates they hold.
    """

    form: ClassVar[Form] = "diagonal"

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Refuse events against which the coefficients do not broadcast, from their first axis."""
        own = tuple(self.alpha(torch.full((), 0.5, dtype=torch.float64)).shape)
        if len(own) <= len(shape) and all(a in (1, b) for a, b in zip(own, shape, strict=False)):
            return None
        return (
            f"{type(self).__name__} has coefficients of shape {own}, which do not broadcast against events of {shape}"
        )

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """The mean of log(sigma / alpha) over an event: the clock of grids, which must rise with t."""
        ratio = self.sigma(t).log() - self.alpha(t).log()
        return ratio.flatten(t.ndim).mean(-1)

    @property
    def prior(self) -> GaussianPrior:
        end = self.sigma(torch.tensor(self.t_max, dtype=torch.float64, device="cpu"))
        return GaussianPrior(std=end.unsqueeze(0))

    def skip_target(self, target: Any) -> str | None:
        """Refuse a target that is no mixture of Gaussians (``as_mixture``)."""
        if hasattr(target, "as_mixture"):
            return None
        return f"{type(target).__name__} is no mixture of Gaussians, as {type(self).__name__} needs for an exact score"

    def score_of(self, target: Any, c: Tensor, level: Level, **known: Any) -> Tensor:
        return _law(target, self).score(c, level, **known)

    def coefficient(self, value: Any, x: Tensor | None) -> Any:
        """A coefficient at one time, float64, as (1, ...) on the device of ``x``."""
        assert x is not None
        return expand(value.unsqueeze(0), x).to(x.device)


_laws: OrderedDict[tuple[int, DiagonalSDE], tuple[Any, DiagonalLaw]] = OrderedDict()
_KEPT = 8


def _law(target: Any, sde: DiagonalSDE) -> DiagonalLaw:
    """The law of a target in the basis of a process, which caches its levels; kept by the identity of the target."""
    key = (id(target), sde)
    if key not in _laws:
        _laws[key] = target, DiagonalLaw(target.as_mixture(), sde.basis)
        if len(_laws) > _KEPT:
            _laws.popitem(last=False)
    return _laws[key][1]
