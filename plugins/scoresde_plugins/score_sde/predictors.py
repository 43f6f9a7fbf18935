r"""Predictors of Song et al. 2021 (arXiv:2011.13456): numerical solvers of the reverse-time SDE and of its ODE.

    reverse SDE        dx = [f x - g^2 score] dt + g dw̄                       (Eq. 6)
    probability flow   dx = [f x - g^2 score / 2] dt                           (Eq. 13)

Euler-Maruyama discretises the continuous equations; reverse diffusion inverts the SDE's own discrete forward chain
``x_{i+1} = (1 + phi_i) x_i + G_i z`` (Appendix E), and so uses the same discretisation as the forward process.
"""

import attrs
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.noise import Draw
from scoresde_core.schedule import Step
from scoresde_core.score import ScoreModel
from scoresde_core.shapes import combine, diffuse
from scoresde_core.steps import Predictor

_FLOW_HELP = "solve the probability flow ODE (no noise, half the score) instead of the reverse SDE"


@attrs.frozen
class EulerMaruyamaPredictor(Predictor):
    """mean = x - [f x - g^2 score] dt, x = mean + g sqrt(dt) z: Euler-Maruyama on the reverse SDE."""

    probability_flow: bool = param(False, _FLOW_HELP)

    @property
    def stochastic(self) -> bool:
        """Draws noise unless it solves the flow."""
        return not self.probability_flow

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """One Euler step of length ``step.dt``."""
        variance = step.diffusion**2 * step.dt
        score = model.score(x, step.now)
        share = 0.5 if self.probability_flow else 1.0
        mean = combine(1 - step.drift_rate * step.dt, x, share * variance, score)
        return (mean, mean) if self.probability_flow else (diffuse(mean, variance**0.5, noise()), mean)


@attrs.frozen
class ReverseDiffusionPredictor(Predictor):
    """mean = x - phi x + G^2 score, x = mean + G z, with (phi, G) the SDE's own discrete chain (Eq. 46)."""

    probability_flow: bool = param(False, _FLOW_HELP)

    @property
    def stochastic(self) -> bool:
        """Draws noise unless it solves the flow."""
        return not self.probability_flow

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """One step of the inverted chain."""
        variance = step.discrete_diffusion**2
        score = model.score(x, step.now)
        share = 0.5 if self.probability_flow else 1.0
        mean = combine(1 - step.discrete_drift, x, share * variance, score)
        return (mean, mean) if self.probability_flow else (diffuse(mean, step.discrete_diffusion, noise()), mean)


@attrs.frozen
class ProbabilityFlowPredictor(Predictor):
    """x - phi x + G^2 score / 2: the predictor that the paper's Table 1 calls probability flow (Appendix D.1)."""

    @property
    def stochastic(self) -> bool:
        """Never draws noise."""
        return False

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """One deterministic step on the SDE's own chain."""
        score = model.score(x, step.now)
        x = combine(1 - step.discrete_drift, x, 0.5 * step.discrete_diffusion**2, score)
        return x, x


@attrs.frozen
class NonePredictor(Predictor):
    """x, unchanged: leaves the work to the corrector."""

    order = None
    idle = True

    @property
    def stochastic(self) -> bool:
        """Never draws noise."""
        return False

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """The state as it is."""
        return x, x
