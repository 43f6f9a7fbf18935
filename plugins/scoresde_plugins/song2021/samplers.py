r"""The samplers of Song et al. 2021 (arXiv:2011.13456): predictor-corrector (Alg. 1) and the probability flow ODE."""

from typing import Literal, Self

import attrs
from attrs.validators import ge, gt, instance_of
from torch import Tensor
from scoresde_core import SDE, Grid, Noise, Observer, Sampler, Schedule, ScoreModel, Step, param
from scoresde_core.steps import Corrector, Past, Predictor, advance, unserved
from ..coordinates import FORMS, raise_noise
from ..grids import UniformGrid
from ..numerics.flow import MAX_EVALUATIONS, MAX_EVALUATIONS_HELP, Solver, velocity
from ..numerics.runge_kutta import FIXED, integrate
from .correctors import NoneCorrector
from .predictors import ReverseDiffusionPredictor


@attrs.frozen
class PredictorCorrectorSampler(Sampler):
    """A predictor step and a corrector at each of ``steps`` noise levels.

    ``corrector_first`` corrects at the level where the predictor starts, as in the published code; ``predictor_first``
    at the level where it arrives, as in the paper's Algorithm 1 (and never at clean data). With ``denoise`` the
    noise-free mean of the last predictor step is returned, as published; with the predictor ``none`` it is the
    corrector's last state. The default grid is the predictor's own (``Predictor.grid``): ``uniform`` for those of the
    papers on SDEs, as published. A sampler that is evolved to another predictor keeps its grid.
    """

    predictor: Predictor = param(attrs.Factory(ReverseDiffusionPredictor), "reverse-time step")
    corrector: Corrector = param(attrs.Factory(NoneCorrector), "MCMC at each level")
    grid: Grid = param(
        attrs.Factory(lambda self: self.predictor.grid or UniformGrid(), takes_self=True),
        "times of the steps; by default the predictor's own grid, or uniform where it has none",
        instance_of(Grid),
    )
    steps: int = param(1000, "number of predictor steps", ge(1))
    order: Literal["corrector_first", "predictor_first"] = param("corrector_first", "which comes first in each step")
    denoise: bool = param(True, "return the noise-free mean of the last step")

    serves = FORMS

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        """Run the loop; time-dependent numbers are floats computed before it, so it never waits for the device."""
        sde = model.sde
        steps = self.predictor.plan(self.plan(sde, x))
        mean, past = x, Past()
        for k, step in enumerate(steps):
            if self.order == "corrector_first":
                x, _ = self.corrector.correct(x, step, model, noise.at(k, "corrector"))
            x, mean, past = advance(self.predictor, x, step, model, noise.at(k, "predictor"), past)
            then = steps[k + 1] if k + 1 < len(steps) else None
            rises = then is not None and then.now.t > step.next.t
            if self.order == "predictor_first" and then and not rises:
                x, _ = self.corrector.correct(x, then, model, noise.at(k, "corrector"))
            if observe is not None:
                observe(k + 1, len(steps), x)
            if then and rises:
                x, past = raise_noise(x, step.next, then.now, noise.draw(k + 1, "rise")), Past()
        return mean if self.denoise else x

    def plan(self, sde: SDE, x: Tensor) -> list[Step]:
        """The steps of the run; noise is added before one that starts above the end of the last."""
        return Schedule(sde, self.grid.times(sde, self.steps), x).steps

    def skip(self, sde: SDE) -> str | None:
        if self.predictor.idle and self.corrector.idle:
            return "predictor and corrector are both none and move nothing: give at least one of them"
        return (
            unserved(self.predictor, sde)
            or unserved(self.corrector, sde)
            or self.grid.skip_steps(sde, self.steps)
            or self.predictor.skip(sde)
            or self.corrector.skip(sde)
            or self.predictor.skip_times(sde, self.grid, self.steps)
        )

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        return self.corrector.caveat(shape, count)

    def decoupled(self) -> Self:
        return attrs.evolve(self, corrector=self.corrector.decoupled())


@attrs.frozen
class ODESampler(Sampler):
    """dx/dt = f x - g^2 score / 2 from t_max to t_min (Eq. 13), on the state's device.

    Adaptive methods choose their steps from ``rtol`` and ``atol`` with one error norm over the batch, so a sample
    depends on its batch to within the tolerance; fixed-step methods take ``steps`` steps on ``grid``.
    With ``denoise`` a last evaluation returns E[x_0 | x] at their end. Without it, ``run`` is the inverse of encoding.
    """

    method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun", "euler", "midpoint", "heun2", "heun3", "rk4"] = param(
        "dopri5", "Runge-Kutta method"
    )
    rtol: float = param(1e-5, "relative tolerance of adaptive methods", gt(0))
    atol: float = param(1e-5, "absolute tolerance of adaptive methods", gt(0))
    steps: int = param(100, "number of steps of fixed-step methods", ge(1))
    grid: Grid = param(attrs.Factory(UniformGrid), "times of the steps of fixed-step methods")
    denoise: bool = param(True, "return the denoised state at t_min")
    max_evaluations: int = param(MAX_EVALUATIONS, MAX_EVALUATIONS_HELP, ge(1))

    serves = FORMS

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"steps", "grid"} if self.method in FIXED else {"rtol", "atol", "max_evaluations"})

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        """Solve the ODE from the latent ``x``; ``observe`` is called at every function evaluation."""
        sde, end = model.sde, model.sde.t_min
        before = model.calls

        def along(t: float, state: Tensor) -> Tensor:
            if observe is not None:
                observe(model.calls - before, 0, state)
            return velocity(model, t, state)

        if self.method in FIXED:
            # The grid's last time is clean data, which the ODE itself never reaches.
            times = self.grid.times(sde, self.steps + 1)[:-1].tolist()
            x, end = integrate(along, x, times, FIXED[self.method]), times[-1]
        else:
            x = Solver(self.method, self.rtol, self.atol, self.max_evaluations).solve(along, x, sde.t_max, end)
        denoise = self.denoise and sde.form != "nonlinear"  # which has no E[x_0 | x] in closed form
        return model.denoised(x, sde.level_at(end, x)) if denoise else x

    def skip(self, sde: SDE) -> str | None:
        return self.grid.skip_steps(sde, self.steps + 1) if self.method in FIXED else None

    def decoupled(self) -> Self:
        return self if self.method in FIXED else attrs.evolve(self, method="rk4")
