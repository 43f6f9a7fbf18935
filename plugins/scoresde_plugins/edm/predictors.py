r"""Heun's method with churn (arXiv:2206.00364, Algorithm 2), for any Gaussian path.

In ``y = x / alpha`` and ``s = sigma / alpha`` every path is the VE process that the paper's sampler is written for.
"""

from collections.abc import Collection
from math import sqrt
from typing import ClassVar

import attrs
from attrs.validators import ge, gt
from torch import Tensor
from scoresde_core import Draw, Level, Predictor, ScoreModel, Step, param
from ..coordinates import ENTRIES, LINEAR, level_ahead, noise_ratio, noise_step, raise_noise, reaches_data
from ..grids import KarrasGrid


@attrs.frozen
class HeunPredictor(Predictor):
    """The trapezoidal rule in s, after churn has raised the noise from s to s^ = (1 + gamma) s.

    gamma = min(s_churn / steps, sqrt(2) - 1) for s_min <= s <= s_max, else 0;  y^ = y + s_noise sqrt(s^^2 - s^2) z;
    y_e = y^ + (s' - s^) eps(y^),  y' = y^ + (s' - s^) (eps(y^) + eps(y_e)) / 2.
    Two evaluations per step; one in the step to the data. s^ is at most the level of t = 1, beyond which no model was
    trained: the first step adds no noise. Published: s_churn 0 (CIFAR-10), or 40 with s in [0.05, 50] and s_noise 1.003
    over 256 steps (ImageNet-64), on the ``karras`` grid. For s_noise = 1 churn keeps the marginals exact.
    """

    variants: ClassVar = ({"s_churn": 4.0},)

    s_churn: float = param(0.0, "amount of noise added and removed over the run; 0 is deterministic", ge(0))
    s_min: float = param(0.0, "smallest sigma / alpha at which noise is added", ge(0))
    s_max: float | None = param(None, "largest sigma / alpha at which noise is added, or null for no limit")
    s_noise: float = param(1.0, "factor on the standard deviation of the added noise", gt(0))

    order = 2.0
    grid = KarrasGrid()

    def __attrs_post_init__(self) -> None:
        if self.s_max is not None and self.s_max < self.s_min:
            raise ValueError(f"s_max must be at least s_min = {self.s_min}, got {self.s_max}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.s_churn > 0

    @property
    def serves(self) -> Collection[str]:  # type: ignore[override]
        """Matrices as well without churn, which adds noise of one size."""
        return ENTRIES if self.stochastic else LINEAR

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """Take a step; its mean is its state, because all noise is added before the evaluations."""
        start = step.now
        if self.stochastic:
            x, start = self._raise(x, step, noise())
            step = attrs.evolve(step, now=start)
        length = noise_ratio(step.next) - noise_ratio(start)
        eps = model.noise(x, start)
        ahead = noise_step(x, step, (length, eps))
        if not reaches_data(step):
            eps_ahead = model.noise(ahead, level_ahead(step))
            ahead = noise_step(x, step, (0.5 * length, eps), (0.5 * length, eps_ahead))
        return ahead, ahead

    def _raise(self, x: Tensor, step: Step, z: Tensor) -> tuple[Tensor, Level]:
        """Return the state with added noise, and its level."""
        now = noise_ratio(step.now)
        inside = (now >= self.s_min) & (now <= self.s_max if self.s_max is not None else True)
        raised = step.at_noise_ratio(now + min(self.s_churn / step.count, sqrt(2) - 1) * (now * inside))
        return raise_noise(x, step.now, raised, z, self.s_noise), raised
