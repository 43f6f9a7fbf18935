r"""The two densities of a score model that ``scoresde likelihood`` measures, with all their parameters.

    FlowDensity     log p(x) by the change of variables along the probability flow ODE (arXiv:2011.13456, Eq. 39)
    BoundDensity    ScoreFlow's lower bound on log p(x) of the reverse-time SDE (arXiv:2101.09258, Theorem 3)

They belong to two different distributions, which agree only for an exact score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, lt
from torch import Tensor
from scoresde_core import ScoreModel, ScoreSDEError, UsageError, param
from scoresde_core.steps import unserved
from ..coordinates import ENTRIES
from ..numerics.divergence import Trace
from ..numerics.flow import Solver, require_continuous
from ..numerics.runge_kutta import ADAPTIVE
from .bound import FEWEST_TIMES, Form, likelihood_bound
from .likelihood import LogDensities, log_likelihood

if TYPE_CHECKING:
    from scoresde_core import Registry
    from scoresde_run import Plan

PUBLISHED_T_MIN = 1e-5


def trained_t_min(plan: Plan | None, registry: Registry) -> float:
    """Return the time to place data at: the smallest time that the model's loss trains; 1e-5 if it states none.

    Published: 1e-5, and 1e-2 for ScoreFlow's sub-VP models, for training and for likelihoods.
    """
    if plan is None:
        return PUBLISHED_T_MIN
    try:
        loss = registry.create("losses", plan.config.training.loss, scales=plan.network.scales)
    except ScoreSDEError:  # a loss that is not installed here
        return PUBLISHED_T_MIN
    return float(getattr(loss, "t_min", PUBLISHED_T_MIN))


class Density(ABC):
    """A way to compute a model's log density."""

    name: ClassVar[str]
    follows: ClassVar[str]
    discrete: bool

    @abstractmethod
    def measure(self, model: ScoreModel, x: Tensor, seed: int = 0, first: int = 0) -> LogDensities:
        """Return log densities of events ``x`` (n, ...) on the model's scale.

        Random numbers are keyed by (seed, index), with indices from ``first``.
        """

    def check(self, model: ScoreModel) -> None:
        """Raise if ``model`` knows only discrete noise scales, unless ``discrete`` takes the nearest of them."""
        if not self.discrete:
            require_continuous(model, "the likelihood", self.follows)


@attrs.frozen
class FlowDensity(Density):
    """Along the probability flow ODE. The published protocol: one Rademacher probe, tolerances and t_min of 1e-5."""

    name: ClassVar[str] = "ode"
    follows: ClassVar[str] = "an ODE through"

    trace: Trace = param("rademacher", "divergence: by Rademacher or Gaussian probes, or exact")
    probes: int = param(1, "probes for every event", ge(1))
    t_min: float = param(PUBLISHED_T_MIN, "where data are placed", and_(gt(0), lt(1)))
    method: str = param("dopri5", "adaptive Runge-Kutta method", in_(ADAPTIVE))
    rtol: float = param(1e-5, "relative tolerance of the ODE", gt(0))
    atol: float = param(1e-5, "absolute tolerance of the ODE", gt(0))
    discrete: bool = param(False, "for a model of discrete noise scales, use the nearest trained one at every time")

    def measure(self, model: ScoreModel, x: Tensor, seed: int = 0, first: int = 0) -> LogDensities:
        solver = Solver(self.method, self.rtol, self.atol)
        how: dict[str, Any] = {name: getattr(self, name) for name in ("trace", "probes", "t_min", "discrete")}
        return log_likelihood(model, x, solver=solver, seed=seed, first=first, **how)


@attrs.frozen
class BoundDensity(Density):
    """ScoreFlow's variational bound: of clean data with ``offset``, else of data with the noise of t_min."""

    name: ClassVar[str] = "bound"
    follows: ClassVar[str] = "an integral over"
    serves: ClassVar = ENTRIES

    form: Form = param("dsm", "denoising or sliced score matching")
    times: int = param(1000, "times for every event", ge(FEWEST_TIMES))
    importance: bool = param(True, "times of density g^2 / sigma^2, else uniform ones")
    offset: bool = param(True, "include the step from t_min to the data")
    t_min: float = param(PUBLISHED_T_MIN, "where the integral starts", and_(gt(0), lt(1)))
    discrete: bool = param(False, "for a model of discrete noise scales, use the nearest trained one at every time")

    def check(self, model: ScoreModel) -> None:
        super().check(model)
        if reason := unserved(self, model.sde):
            raise UsageError(f"{reason}; take the flow (ode)")

    def measure(self, model: ScoreModel, x: Tensor, seed: int = 0, first: int = 0) -> LogDensities:
        how = attrs.asdict(self, filter=lambda field, _: field.name != "discrete")
        bound = likelihood_bound(model, x, seed=seed, first=first, **how)
        return LogDensities(-bound.nats, torch.full((len(x),), bound.nfe), stderr=bound.stderr)
