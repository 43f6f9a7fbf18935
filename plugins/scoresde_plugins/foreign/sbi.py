"""The samplers of sbi, each in its own code, on the schedule of its score estimators: uniform in time."""

from functools import partial
from typing import Any

import attrs
import torch
from attrs.validators import ge, matches_re, optional
from torch import Tensor, nn
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from .library import ForeignSampler, keyed


@attrs.frozen
class SbiSampler(ForeignSampler):
    """``Diffuser`` of the library with the predictor ``method`` and the corrector ``correction``, or its ODE solver.

    From the end of the signal to t_min. ``options`` are those of the predictor or solver, as ``{eta=0.5}``.
    """

    library, chosen = "sbi", "method"

    method: str = param("euler_maruyama", "the name of a predictor, or ode", matches_re(r"\w+"))
    correction: str | None = param(None, "a corrector, such as langevin or gibbs", optional(matches_re(r"\w+")))
    correction_options: dict = param(attrs.Factory(dict), "its arguments: {num_steps=1}")  # type: ignore[type-arg]
    steps: int = param(500, "steps as the library counts them: times, one more than its steps", ge(2))

    @property
    def uses(self) -> frozenset[str]:
        return super().uses - ({"steps", "correction", "correction_options"} if self.method == "ode" else set())

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        with keyed(noise):
            return self._made(_Potential(model, observe, x), model.sde, x)()  # type: ignore[no-any-return]

    def check(self, sde: SDE) -> None:
        if self.method == "ode" and self.correction:
            raise ValueError("it has no correctors: leave correction out")
        self._made(_Potential(ScoreModel, None, torch.zeros(1, 1)), sde, torch.zeros(1, 1))

    def _made(self, potential: "_Potential", sde: SDE, x: Tensor) -> Any:
        """What returns the samples, which start at ``x`` in place of the library's own draws."""
        from sbi.samplers import ode_solvers, score

        if self.method == "ode":
            base, ends = (x.new_zeros(1, 1), x.new_ones(1, 1), potential.condition_shape), (sde.t_min, sde.t_signal)
            flow = ode_solvers.build_neural_ode(potential.ode_fn, nn.Identity(), *base, "zuko", *ends, **self.options)
            return partial(flow(potential.x_o).transform.inv, x)
        diffuser = score.Diffuser(potential, self.method, self.correction, self.options, self.correction_options)
        diffuser.initialize = lambda count: x
        times = torch.linspace(sde.t_signal, sde.t_min, self.steps, device=x.device)
        return partial(diffuser.run, len(x), times, show_progress_bars=False)


class _Potential:
    """A score model as what sbi calls a vector field estimator and a potential; it calls ``observe`` at evaluations."""

    t_min = t_max = mean_base = std_base = None  # of a start that is not used
    input_shape, condition_shape = torch.Size([1]), torch.Size([1])

    def __init__(self, model: Any, observe: Observer | None, x: Tensor) -> None:
        self.model, self.observe, self.before = model, observe, model.calls
        self.vector_field_estimator, self.device, self.x_o = self, x.device, x.new_zeros(1, 1)

    def gradient(self, x: Tensor, t: Tensor) -> Any:
        if self.observe is not None:
            self.observe(self.model.calls - self.before, 0, x)
        return self.model.score(x, self.model.sde.level_at(float(t), x))

    def drift_fn(self, x: Tensor, t: Tensor) -> Tensor:
        return x * float(self.model.sde.drift_rate(t.double().cpu()))

    def diffusion_fn(self, x: Tensor, t: Tensor) -> Tensor:
        return x.new_tensor(float(self.model.sde.diffusion(t.double().cpu())))

    def ode_fn(self, x: Tensor, condition: Tensor, t: Tensor) -> Any:
        return self.drift_fn(x, t) - 0.5 * self.diffusion_fn(x, t) ** 2 * self.gradient(x, t)
