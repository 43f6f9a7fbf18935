r"""Predictors of Song et al. 2021 (arXiv:2011.13456): numerical solvers of the reverse-time SDE and of its ODE.

    reverse SDE        dx = [f x - g^2 score] dt + g dw̄                       (Eq. 6)
    probability flow   dx = [f x - g^2 score / 2] dt                           (Eq. 13)

Euler-Maruyama discretises the continuous equations; reverse diffusion inverts the SDE's own discrete forward chain
``x_{i+1} = (1 + phi_i) x_i + G_i z`` (Appendix E).
"""

from typing import Literal

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Draw, Grid, Predictor, ScoreModel, Step, param
from scoresde_core.shapes import combine, diffuse, shift
from ..coordinates import FORMS, LINEAR
from ..grids import UniformGrid
from .chains import evenly_spaced

_STEEP = 100  # a drift rate at t_max beyond which the signal changes its sign within a step of a hundredth

_FLOW_HELP = "solve the probability flow ODE (no noise, half the score) instead of the reverse SDE"


@attrs.frozen
class EulerMaruyamaPredictor(Predictor):
    """mean = x - [f x - g^2 score] dt, x = mean + g sqrt(dt) z: Euler-Maruyama on the reverse SDE.

    ``dt`` is the grid's spacing or, as in the published code, 1/N in all N steps, the last included, at the times
    1 + k (t_min - 1) / (N - 1) of the ``uniform`` grid. The two agree for N = 1 / t_min, as in the published runs of
    VP and sub-VP with 1000 steps. With fewer steps, or under VE, the published last step is longer than the time left.
    """

    probability_flow: bool = param(False, _FLOW_HELP)
    dt: Literal["grid", "published"] = param(
        "grid", "length of a step: the grid's spacing, or 1/N for every step, as published"
    )

    grid = UniformGrid()
    serves = FORMS

    @property
    def order(self) -> float | None:  # type: ignore[override]
        """1, or None with steps of 1/N, which converge only on evenly spaced times."""
        return 1.0 if self.dt == "grid" else None

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return not self.probability_flow

    def skip_times(self, sde: SDE, grid: Grid, steps: int) -> str | None:
        if self.dt == "grid" or evenly_spaced(grid.times(sde, steps)):
            return None
        return f"euler_maruyama[dt=published] takes steps of 1/N, but {grid} is not evenly spaced: use the grid uniform"

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        dt = step.dt if self.dt == "grid" else 1 / step.count
        variance = step.diffusion**2 * dt
        score = model.score(x, step.now)
        share = 0.5 if self.probability_flow else 1.0
        if step.sde.form == "nonlinear":
            x = x - step.sde.drift(x, torch.full((), float(step.now.t), dtype=x.dtype, device=x.device)) * dt
            mean = shift(x, share * variance, score)
        else:
            mean = combine(1 - step.drift_rate * dt, x, share * variance, score)
        return (mean, mean) if self.probability_flow else (diffuse(mean, variance**0.5, noise()), mean)


@attrs.frozen
class ReverseDiffusionPredictor(Predictor):
    """mean = x - phi x + G^2 score, x = mean + G z, with (phi, G) the SDE's own discrete chain (Eq. 46)."""

    probability_flow: bool = param(False, _FLOW_HELP)

    grid = UniformGrid()
    serves = LINEAR

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return not self.probability_flow

    def skip(self, sde: SDE) -> str | None:
        return ProbabilityFlowPredictor().skip(sde) if self.probability_flow else None

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        variance = step.discrete_diffusion**2
        score = model.score(x, step.now)
        share = 0.5 if self.probability_flow else 1.0
        mean = combine(1 - step.discrete_drift, x, share * variance, score)
        return (mean, mean) if self.probability_flow else (diffuse(mean, step.discrete_diffusion, noise()), mean)


@attrs.frozen
class ProbabilityFlowPredictor(Predictor):
    """x - phi x + G^2 score / 2: probability flow in the paper's Table 1 (Appendix D.1)."""

    grid = UniformGrid()
    stochastic = False
    serves = LINEAR

    def skip(self, sde: SDE) -> str | None:
        """Refuse a process whose signal vanishes at t_max, or nearly: steps there keep their relative size."""
        why = "probability_flow tends to another law where the signal vanishes at t_max: use ddim, or "
        end = torch.tensor(sde.t_max, dtype=torch.float64)
        steep = sde.form == "scalar" and not float(sde.drift_rate(end)) > -_STEEP
        return f"{why}euler_maruyama[probability_flow=true]" if steep else None

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        return ReverseDiffusionPredictor(probability_flow=True).step(x, step, model, noise)


@attrs.frozen
class NonePredictor(Predictor):
    """Leaves x unchanged: the corrector does all the work."""

    order = None
    idle = True
    grid = UniformGrid()
    stochastic = False
    serves = LINEAR

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        return x, x
