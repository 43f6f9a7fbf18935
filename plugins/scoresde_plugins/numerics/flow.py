r"""The probability flow ODE and its solver.

    dx/dt = f(t) x - g(t)^2 score(x, t) / 2           (Song et al. 2021, arXiv:2011.13456, Eq. 13)
          = alpha' E[x_0 | x] + sigma' E[eps | x]     (finite where alpha = 0 and f is not)

Data are placed at t_min, where the score is still defined, and the prior at t_max. Solving towards t_max encodes,
solving towards t_min decodes, its inverse; the change of variables along the way is the likelihood.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch
from attrs.validators import ge, gt, in_
from torch import Tensor
from scoresde_core import SDE, ScoreModel, ScoreSDEError, UsageError, param
from scoresde_core.shapes import combine, shift
from .runge_kutta import ADAPTIVE, adapt, pair

State = TypeVar("State", Tensor, tuple[Tensor, ...])

MAX_EVALUATIONS = 10_000
MAX_EVALUATIONS_HELP = "evaluations of an adaptive method after which it stops with an error"


class Diverged(ScoreSDEError, ArithmeticError):
    """The ODE could not be solved to the given tolerance."""


@attrs.frozen
class Solver:
    """An adaptive Runge-Kutta method and its tolerances.

    The error is the (largest) root mean square over the batch: a sample depends on its batch within the tolerance.
    """

    method: str = param("dopri5", "adaptive Runge-Kutta method", in_(ADAPTIVE))
    rtol: float = param(1e-5, "relative tolerance", gt(0))
    atol: float = param(1e-5, "absolute tolerance", gt(0))
    max_evaluations: int = param(MAX_EVALUATIONS, MAX_EVALUATIONS_HELP, ge(1))

    def solve(self, velocity: Callable[[float, State], State], state: State, start: float, end: float) -> State:
        """Return the state at ``end``, from ``state`` at ``start``; :class:`Diverged` if there is no solution."""
        left, given = self.max_evaluations, f"for rtol {self.rtol:g}, atol {self.atol:g}"

        def counted(t: float, at: State) -> State:
            nonlocal left
            if left == 0:
                took = f"the probability flow ODE took {self.max_evaluations} evaluations (max_evaluations)"
                why = f"the score is too steep {given}; try larger ones, a larger t_min, or a method with fixed steps"
                raise Diverged(f"{took} and only got from t = {start:g} to {t:.3g}: {why}")
            left -= 1
            return velocity(t, at)

        try:
            return adapt(counted, state, start, end, pair(self.method), self.rtol, self.atol)
        except Diverged:
            raise
        except ArithmeticError as error:
            why = f"the score is not finite or not smooth enough {given}; try larger ones, or a larger t_min"
            raise Diverged(f"the probability flow ODE could not be solved ({error}): {why}") from error


def require_continuous(model: ScoreModel, what: str, how: str = "an ODE through") -> None:
    """Raise if ``model`` knows only discrete noise scales, between which there is nothing to follow."""
    if not model.continuous:
        why = f"{what} follows {how} all noise levels, but this model was trained at discrete ones"
        remedy = "use a model trained in continuous time, or discrete=True (--discrete) for the nearest trained level"
        raise UsageError(f"{why}: {remedy}")


def check_t_min(t_min: float) -> None:
    """Raise unless 0 < ``t_min`` < 1."""
    if not 0 < t_min < 1:
        raise ValueError(f"t_min must lie between 0 and 1, got {t_min}")


def coefficients(sde: SDE, t: float, x: Tensor) -> tuple[Any, Any]:
    """Return f and g^2 / 2 at ``t``, as they multiply a batch ``x``."""
    time = torch.tensor(t, dtype=torch.float64)
    return sde.coefficient(sde.drift_rate(time), x), 0.5 * sde.coefficient(sde.diffusion(time), x) ** 2


def velocity(model: ScoreModel, t: float, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return dx/dt at ``t``, like ``x``; the model is evaluated once, in ``dtype`` (None: that of ``x``)."""
    sde, seen = model.sde, x if dtype is None else x.to(dtype)
    level = sde.level_at(t, seen)
    if isinstance(level.alpha, float) and level.alpha == 0:
        return velocity_without_signal(model, t, seen).to(x.dtype)
    if sde.form == "nonlinear":
        time = torch.tensor(t, dtype=x.dtype, device=x.device)
        return shift(sde.drift(x, time), -0.5 * float(sde.diffusion(time)) ** 2, model.score(seen, level))
    drift_rate, pull = coefficients(sde, t, x)
    return combine(drift_rate, x, -pull, model.score(seen, level).to(x.dtype))


def velocity_without_signal(model: ScoreModel, t: float, x: Tensor) -> Tensor:
    """Return dx/dt where alpha = 0 and so E[eps | x] = x / sigma: alpha' E[x_0] + (sigma' / sigma) x."""
    level = model.sde.float_level(t)
    signal, noise = map(float, model.sde.slopes(torch.tensor(t, dtype=torch.float64)))
    return model.denoised(x, level) * signal + x * (noise / float(level.sigma))
