r"""The probability flow ODE and its solver.

    dx/dt = f(t) x - g(t)^2 score(x, t) / 2           (Song et al. 2021, arXiv:2011.13456, Eq. 13)

Data are placed at t_min, where the score is still defined, and the prior at t = 1. Solving towards 1 encodes, solving
towards t_min decodes; the two are inverse to each other, and the change of variables along the way is the likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs
import torch
from attrs.validators import ge, gt, in_
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import ScoreSDEError, UsageError
from scoresde_core.score import ScoreModel
from scoresde_core.sde import SDE

from .runge_kutta import ADAPTIVE, adapt, pair

State = TypeVar("State", Tensor, tuple[Tensor, ...])

MAX_EVALUATIONS = 10_000
MAX_EVALUATIONS_HELP = "evaluations of an adaptive method after which it stops with an error"


class Diverged(ScoreSDEError, ArithmeticError):
    """The ODE could not be solved to the given tolerance."""


@attrs.frozen
class Solver:
    """An adaptive Runge-Kutta method and its tolerances.

    The error is a root mean square over the batch, the largest of them for several states: a sample depends on its
    batch to within the tolerance.
    """

    method: str = param("dopri5", "adaptive Runge-Kutta method", in_(ADAPTIVE))
    rtol: float = param(1e-5, "relative tolerance", gt(0))
    atol: float = param(1e-5, "absolute tolerance", gt(0))
    max_evaluations: int = param(MAX_EVALUATIONS, MAX_EVALUATIONS_HELP, ge(1))

    def solve(self, velocity: Callable[[float, State], State], state: State, start: float, end: float) -> State:
        """Return the state at ``end``, from ``state`` at ``start``; :class:`Diverged` if there is no solution."""
        left = self.max_evaluations

        def counted(t: float, at: State) -> State:
            nonlocal left
            if left == 0:
                raise Diverged(
                    f"the probability flow ODE took {self.max_evaluations} evaluations (max_evaluations) and only got "
                    f"from t = {start:g} to {t:.3g}: the score is too steep for rtol {self.rtol:g}, "
                    f"atol {self.atol:g}; try larger ones, a larger t_min, or a method with fixed steps"
                )
            left -= 1
            return velocity(t, at)

        try:
            return adapt(counted, state, start, end, pair(self.method), self.rtol, self.atol)
        except Diverged:
            raise
        except ArithmeticError as error:
            raise Diverged(
                f"the probability flow ODE could not be solved ({error}): the score is not finite or not smooth enough "
                f"for rtol {self.rtol:g}, atol {self.atol:g}; try larger ones, or a larger t_min"
            ) from error


def require_continuous(model: ScoreModel, what: str, how: str = "an ODE through") -> None:
    """Raise if ``model`` knows only discrete noise scales, between which there is nothing to follow."""
    if not model.continuous:
        raise UsageError(
            f"{what} follows {how} all noise levels, but this model was trained at discrete ones: use a model trained "
            "in continuous time, or discrete=True (--discrete) for the nearest trained level"
        )


def check_t_min(t_min: float) -> None:
    """Raise unless 0 < ``t_min`` < 1."""
    if not 0 < t_min < 1:
        raise ValueError(f"t_min must lie between 0 and 1, got {t_min}")


def coefficients(sde: SDE, t: float) -> tuple[float, float]:
    """Return f and g^2 / 2 at ``t``."""
    time = torch.tensor(t, dtype=torch.float64)
    return float(sde.drift_rate(time)), 0.5 * float(sde.diffusion(time)) ** 2


def velocity(sde: SDE, t: float, x: Tensor, score: Tensor) -> Tensor:
    """Return f x - g^2 score / 2, like ``x``."""
    drift_rate, pull = coefficients(sde, t)
    return torch.add(x * drift_rate, score, alpha=-pull)
