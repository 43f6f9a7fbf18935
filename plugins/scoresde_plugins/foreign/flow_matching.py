"""The ODE solver of flow_matching, which is torchdiffeq's, in its own code; its time runs from noise to data."""

from typing import Any, Self

import attrs
import torch
from attrs.validators import matches_re
from torch import Tensor
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from scoresde_core.shapes import combine
from ..numerics.flow import coefficients, velocity
from .library import ForeignSampler

FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")  # with step_size


@attrs.frozen
class FlowMatchingSampler(ForeignSampler):
    """``ODESolver.sample`` of the library with ``method`` and ``options``, as ``{rtol=1e-4}``.

    Made for ``rectified_flow``; another process runs at t_max (1 - t) of its time, to 0.
    """

    library, chosen = "flow_matching", "method"

    method: str = param("euler", "of torchdiffeq, such as midpoint, or dopri5, which is adaptive", matches_re(r"\w+"))

    @property
    def uses(self) -> frozenset[str]:
        return super().uses - (set() if self.method in FIXED else {"steps"})

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        end, before = model.sde.t_max, model.calls

        def field(x: Tensor, t: Tensor) -> Tensor:
            if observe is not None:
                observe(model.calls - before, 0, x)
            return _slope(model, end * (1 - float(t)), x) * -end

        return self._solve(field, x)

    def check(self, sde: SDE) -> None:
        attrs.evolve(self, steps=1)._solve(lambda x, t: 0 * x, torch.zeros(1, 1))

    def decoupled(self) -> Self:
        return self if self.method in FIXED else attrs.evolve(self, method="rk4")

    def _solve(self, field: Any, x: Tensor) -> Tensor:
        from flow_matching.solver import ODESolver

        size = 1 / self.steps if self.method in FIXED else None
        found: Tensor = ODESolver(field).sample(x, step_size=size, method=self.method, **self.options)
        return found


def _slope(model: ScoreModel, t: float, x: Tensor) -> Tensor:
    """dx/dt of the probability flow; below t_min with the score of t_min, as data have none that all models know.

    Below 0 it goes on smoothly: adaptive methods step over the end, and interpolate.
    """
    sde = model.sde
    if t >= sde.t_min:
        return velocity(model, t, x)
    f, pull = coefficients(sde, abs(t), x)
    if t < 0:
        f, pull = (2 * end - beyond for end, beyond in zip(coefficients(sde, 0.0, x), (f, pull), strict=True))
    return combine(f, x, -pull, model.score(x, sde.level_at(sde.t_min, x)))
