"""SA-Solver, ER-SDE-Solver and SEEDS, for any Gaussian path."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, ge, in_, le
from torch import Tensor
from scoresde_core import Draw, Level, Predictor, Scalar, ScoreModel, Step, param
from scoresde_core.shapes import combine, shift
from ..coordinates import ENTRIES, NODES, SHARES, blend, log_snr, noise_ratio, power_weights, reaches_data, settle
from ..exponential import ExponentialMultistep, exponential_moments
from ..grids import LogSNRGrid

SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "ode": torch.ones_like,
    "reverse": lambda s: s,
    "er_2": lambda s: s**0.5,
    "er_5": lambda s: (s**0.3).exp() + 10,
}
"""phi(s) / s, which must not fall with s: k is at most 1."""


@attrs.frozen
class SASolverPredictor(ExponentialMultistep):
    """Stochastic Adams: a predictor, and a corrector once its end is evaluated (arXiv:2309.05019, Algorithm 1).

    The steps of :mod:`..exponential` with eta = tau^2; with two states the first moment is q / 2, as in the authors'
    code. The ``corrector_order`` states include that at the end of the step. ``tau = 0`` with ``corrector_order`` one
    more than ``max_order`` is ``unipc[variant=bh1]``. Published with a tau that is constant for some s and 0 elsewhere.
    """

    variants: ClassVar = ({"tau": 0.0}, {"corrector_order": 0}, {"max_order": 2, "corrector_order": 2, "s_max": 1.0})

    max_order: int = param(3, "number of denoised states in the predictor", and_(ge(1), le(4)))
    corrector_order: int = param(4, "number of denoised states in the corrector, 2 to 4; 0 without", in_((0, 2, 3, 4)))
    tau: float = param(1.0, "scale of the noise: 0 deterministic, 1 the reverse SDE", ge(0))
    s_min: float = param(0.0, "smallest sigma / alpha at which noise is added", ge(0))
    s_max: float | None = param(None, "largest sigma / alpha at which noise is added, or null for no limit")
    lower_order_final: bool = param(True, "lower the order at the end to the number of steps left")

    @property
    def eta(self) -> float:  # type: ignore[override]
        return self.tau**2

    @property
    def order(self) -> float:  # type: ignore[override]
        """That of the corrector, or one more than the predictor's if it is less; at most 2 with noise."""
        order = min(self.corrector_order or self.max_order, self.max_order + 1)
        return float(min(order, 2) if self.stochastic else order)

    def share(self, now: Level) -> Scalar:
        s = noise_ratio(now)
        return ((s >= self.s_min) & (s <= self.s_max if self.s_max is not None else True)) * self.eta

    def moments(self, q: Scalar, exact: list[Scalar]) -> list[Scalar]:
        return [exact[0], 0.5 * q] if len(exact) == 2 else exact


@attrs.frozen
class ERSDEPredictor(ExponentialMultistep):
    """The extended reverse SDE with a noise scale phi(s), s = sigma / alpha (arXiv:2309.06169, ER-SDE-Solver-1 to -3).

    k = (phi(s') / s') / (phi(s) / s); D, D' and D'' are taken from the last states by divided differences in s, and the
    weights of v = (s - u) / (s - s') have the moments m_n = 1 - n int_0^1 v^{n-1} phi(s') / phi(u(v)) dv, here by
    quadrature in log u where the published code adds 100 rectangles. As published, with three states D' is that between
    the last two levels, not at the last: the error is smaller, but of order 2. phi is s for ``ode``, s^2 for
    ``reverse`` (the reverse SDE), s^1.5 for ``er_2``, and s (e^{s^0.3} + 10) for ``er_5``, the authors' choice.
    """

    variants: ClassVar = ({"scale": "ode"}, {"max_order": 1}, {"max_order": 2, "scale": "reverse"})

    max_order: int = param(3, "number of denoised states that are used", and_(ge(1), le(3)))
    scale: Literal["ode", "reverse", "er_2", "er_5"] = param("er_5", "the noise scale phi(s)")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.scale != "ode"

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(min(self.max_order, 2))

    def keep(self, now: Level, ahead: Level) -> Scalar:
        scale = SCALES[self.scale]
        ratio = scale(_tensor(noise_ratio(ahead))) / scale(_tensor(noise_ratio(now)))
        return ratio if ratio.ndim else float(ratio)

    def weights(self, levels: Sequence[Level], ahead: Level) -> list[Scalar]:
        s, end, scale = noise_ratio(levels[0]), noise_ratio(ahead), SCALES[self.scale]
        nodes = [(s - noise_ratio(level)) / (s - end) for level in levels]
        moments: list[Scalar] = [1 - self.keep(levels[0], ahead) * end / s]
        if len(levels) > 1:
            first, last = _tensor(s), _tensor(end)
            w, shares = (part.to(first.device).reshape(-1, *[1] * first.ndim) for part in (NODES, SHARES))
            rate = (last / first).log()
            u = first * (rate * w).exp()
            density = shares * scale(last) / scale(u) * last * rate / (last - first)
            for n in range(1, len(levels)):
                moment = 1 - n * (density * ((first - u) / (first - last)) ** (n - 1)).sum(0)
                moments.append(moment if first.ndim else float(moment))
        if len(levels) == 3:
            moments[2] = moments[2] + nodes[1] * moments[1]
        return power_weights(nodes, moments)


@attrs.frozen
class SEEDSPredictor(Predictor):
    """SEEDS-1, -2 and -3 for data prediction: exponential steps of ``stages`` evaluations (arXiv:2305.14267).

    Stage i goes a share i / ``stages`` of the way in lambda, as :mod:`..exponential` says, with the line through the
    first and the last denoised state, or for SEEDS-2 with the last alone; all stages follow one Brownian path. ``eta``
    is 1 in the paper; 0 gives DDIM, the midpoint rule, or exponential Heun of order 3. SEEDS-1 is ``ddim[eta=1]``. The
    last step, to the data, takes one evaluation.
    """

    variants: ClassVar = ({"stages": 1}, {"stages": 3}, {"eta": 0.0})

    stages: int = param(2, "evaluations a step", and_(ge(1), le(3)))
    eta: float = param(1.0, "share of the reverse SDE's noise: 0 deterministic, 1 the reverse SDE", and_(ge(0), le(1)))

    grid = LogSNRGrid()
    serves = ENTRIES

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0

    @property
    def order(self) -> float:  # type: ignore[override]
        """``stages``, at most 2 with noise."""
        return float(min(self.stages, 2) if self.stochastic else self.stages)

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        now, s, start = step.now, noise_ratio(step.now), log_snr(step.now)
        first = latest = model.denoised(x, now)
        if reaches_data(step):
            return first, first
        state, level, path = x, now, 0.0 * x
        for stage in range(1, self.stages + 1):
            before, level = level, step.next
            if stage < self.stages:
                level = step.at_noise_ratio(s * (noise_ratio(level) / s) ** (stage / self.stages))
            if stage > 1:
                latest = settle(step, model.denoised(state, before), first)
            # Below t_min, where no grid leads, all levels are one: the smallest number keeps the moments finite.
            whole, line = exponential_moments((1 + self.eta) * (log_snr(level) - start) + 1e-300, 2)
            end = 0.0 if stage == 1 else whole if self.stages == 2 else line * stage / (stage - 1)
            w, more = (level.alpha * settle(step, c, d) for c, d in ((whole - end, 1.0), (end, 0.0)))
            keep = settle(step, (noise_ratio(level) / s) ** self.eta, 0.0)
            state = mean = blend(level.sigma / now.sigma * keep, x, w, first, (more, latest))
            if self.stochastic:
                still = settle(step, (noise_ratio(level) / noise_ratio(before)) ** self.eta, 0.0)
                fresh, z = (1 - still * still) ** 0.5, noise()
                mean = shift(mean, level.sigma * still, path)
                path, state = combine(still, path, fresh, z), shift(mean, level.sigma * fresh, z)
        return state, mean


def _tensor(value: Scalar) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)
