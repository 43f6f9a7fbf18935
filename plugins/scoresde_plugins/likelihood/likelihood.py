r"""The log densities of a score model that ``scoresde likelihood`` measures, with all their parameters.

    FlowDensity     log p(x) by the change of variables along the probability flow ODE
    BoundDensity    ScoreFlow's lower bound on log p(x) of the reverse-time SDE (:mod:`.bound`)

They belong to two different distributions, which agree only for an exact score. Along the flow,

    log p(x) = log pi(z) + int_{t_min}^1 div v dt,   v = f x - g^2 score / 2,   z = x(1)
    div v    = D f - g^2 div score / 2

(Song et al. 2021, arXiv:2011.13456, Eq. 39; Grathwohl et al. 2019, arXiv:1810.01367.) The drift and its divergence
come from one forward pass. The ODE's state is x and the log density per dimension, both in float64 and with the same
tolerance: the error in bits/dim is about the tolerance. The model sees the dtype of the data.

A process of several parts, such as position x and velocity v, has the density of both. Then with v from its law q at
t_min, log p(x, v) - log q(v) is on average a lower bound of log p(x) (Dockhorn et al. 2022, arXiv:2112.07068, B.5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, lt
from torch import Tensor
from scoresde_core import Noise, ScoreModel, ScoreSDEError, UsageError, param
from scoresde_core.score import in_batches
from scoresde_core.steps import unserved
from ..coordinates import ENTRIES
from ..numerics.divergence import Trace, draw_probes, field_and_divergence, score_and_divergence
from ..numerics.flow import Solver, check_t_min, coefficients, require_continuous, velocity, velocity_without_signal
from ..numerics.runge_kutta import ADAPTIVE
from .bound import FEWEST_TIMES, Form, likelihood_bound

if TYPE_CHECKING:
    from scoresde_core import Registry
    from scoresde_run import Plan

PUBLISHED_T_MIN = 1e-5


@attrs.frozen(eq=False)
class LogDensities:
    """Log densities or lower bounds ``log_prob`` (n,) in nats, float64, and function evaluations ``nfe`` (n,).

    ``latent`` (n, ...) at t = 1 comes from the flow; ``stderr`` (n,), in nats, from the random draws of the bound.
    """

    log_prob: Tensor
    nfe: Tensor
    latent: Tensor | None = None
    stderr: Tensor | None = None


@torch.no_grad()
def log_likelihood(
    model: ScoreModel, x: Tensor, *, trace: Trace = "rademacher", probes: int = 1, t_min: float = 1e-5,
    solver: Solver | None = None, seed: int = 0, batch_size: int | None = None, first: int = 0, discrete: bool = False,
) -> LogDensities:  # fmt: skip
    """Return the model's log density of events ``x`` (n, ...) in the units of the model's data.

    ``trace`` estimates the divergence with ``probes`` Rademacher or Gaussian probes, fixed along the path, or computes
    it exactly. ``x`` is placed at ``t_min``; the published value is 1e-5 for every SDE. Probes are keyed by ``seed``
    and the index of the sample, from ``first``: any split gives the same numbers to within the solver's tolerance.
    """
    check_t_min(t_min)
    if not discrete:
        require_continuous(model, "the likelihood")
    solver, size = solver or Solver(), batch_size or len(x)
    if size < 1 or len(x) < 1:
        why = f"log_likelihood needs at least one event and a batch size of at least 1, got {len(x)} and {size}"
        raise ValueError(why)
    parts = [
        _solve(known, part, trace, probes, t_min, solver, seed, first + start)
        for start, known, part in in_batches(model.framed(), x, size)
    ]
    return LogDensities(*map(torch.cat, zip(*parts, strict=True)))


def _solve(
    model: ScoreModel, x: Tensor, trace: Trace, probes: int, t_min: float, solver: Solver, seed: int, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log densities, evaluations and latents of one batch, whose first sample has the index ``first``."""
    sde, dtype, before = model.sde, x.dtype, model.calls
    shape = sde.state_shape(tuple(x.shape[1:]))
    noise = Noise(seed, shape, len(x), start=first, device=x.device, dtype=dtype)
    x, added = sde.complete(x, noise, t_min)
    dim = x[0].numel()
    vectors = draw_probes(noise, trace, probes)

    def along(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        at = state[0].to(dtype)
        if sde.form != "scalar":
            moved, stretched = field_and_divergence(lambda here: velocity(model, t, here), at, vectors)
            return moved.double(), stretched / dim
        level = sde.float_level(t)
        if level.alpha == 0:
            _, growth = sde.slopes(torch.tensor(t, dtype=torch.float64))
            stretch = torch.full_like(state[1], float(growth) / float(level.sigma))
            return velocity_without_signal(model, t, at).double(), stretch
        score, divergence = score_and_divergence(model, at, level, vectors)
        drift_rate, pull = coefficients(sde, t, at)
        return torch.add(state[0] * drift_rate, score, alpha=-pull), drift_rate - pull * divergence / dim

    start = (x.double(), torch.zeros(len(x), dtype=torch.float64, device=x.device))
    latent, change = solver.solve(along, start, t_min, sde.t_max)
    log_prob = sde.prior.log_prob(latent) + dim * change - added
    nfe = torch.full((len(x),), model.calls - before)
    frame = sde.frame
    return log_prob, nfe, (frame.leave(latent, sde.t_max) if frame else latent).to(dtype)


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
    t_min: float

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
