"""The schedulers of diffusers, each in its own code, with its own grid and the defaults that it ships with.

A scheduler steps through ``timesteps`` 999 .. 0 of a table of betas, from sigma 1 to 0 of a flow, or through the sigmas
of EDM. The model answers at each as a network would that is told it: at the time ``timestep / 999`` of the process,
whose betas the scheduler is given.
"""

import inspect
import math
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import matches_re
from torch import Tensor
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from .library import ForeignSampler, denoised_at, keyed

LAST = 999
"""The last timestep of a table of betas."""


def betas_of(sde: SDE) -> Tensor:
    """Betas (1000,), float64, of a process at k / 999; the first, if it has no noise, half a step on."""
    times = torch.arange(LAST + 1, dtype=torch.float64) / LAST
    times[0] = _first(sde)
    products = sde.alpha(times).square()
    return 1 - products / torch.cat([products.new_ones(1), products[:-1]])


@attrs.frozen
class DiffusersSampler(ForeignSampler):
    """A scheduler of the library; processes with alpha^2 + sigma^2 = 1, alpha + sigma = 1 (flow) or alpha = 1 (EDM).

    ``options`` are arguments of its class, as ``{use_karras_sigmas=true}``. Consistency samplers (LCM, TCD) are for
    networks that jump to the data, and have another law with any other.
    """

    library: ClassVar[str] = "diffusers"
    chosen: ClassVar[str] = "scheduler"
    example: ClassVar[dict[str, Any]] = {"scheduler": "HeunDiscrete"}

    scheduler: str = param(help="the name of its class without Scheduler, such as DDIM", check=matches_re(r"\w+"))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        scheduler, answer = self._made(model.sde)
        scheduler.set_timesteps(self.steps, device=x.device)
        x = x * (float(getattr(scheduler, "init_noise_sigma", 1.0)) / model.sde.prior.std)
        with keyed(noise):
            for k, t in enumerate(scheduler.timesteps):
                x = scheduler.step(answer(scheduler, model, x, float(t)), t, x).prev_sample
                if observe is not None:
                    observe(k + 1, len(scheduler.timesteps), x)
        return x

    def check(self, sde: SDE) -> None:
        self._made(sde)

    def _made(self, sde: SDE) -> tuple[Any, Any]:
        """The scheduler, and what a network of its kind would answer."""
        import diffusers

        kind: Any = getattr(diffusers, f"{self.scheduler}Scheduler", None)
        if not hasattr(kind, "step") or "Inverse" in self.scheduler:
            raise ValueError(f"diffusers {diffusers.__version__} has no such scheduler of samples")
        known = inspect.signature(kind).parameters
        alpha, sigma = (float(scale(torch.tensor([0.5 * sde.t_max]).double())) for scale in (sde.alpha, sde.sigma))
        table = {"trained_betas", "prediction_type"} <= known.keys() and sde.t_signal >= sde.t_max  # no beta of 1
        if table and abs(alpha**2 + sigma**2 - 1) < 1e-6:
            return kind(trained_betas=betas_of(sde).tolist(), **self.options), _noise
        if "FlowMatch" in self.scheduler and abs(alpha + sigma - 1) < 1e-6:
            return kind(**self.options), _velocity
        if "sigma_data" in known and alpha == 1:
            low, high = sde.sigma(torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)).tolist()
            return kind(**{"sigma_min": low, "sigma_max": high, **self.options}), _preconditioned
        raise ValueError(f"it is not for {type(sde).__name__}: take table or vp, rectified_flow, or edm")


def _first(sde: SDE) -> float:
    return 0.0 if float(sde.sigma(torch.zeros(1, dtype=torch.float64))) > 0 else 0.5 / LAST


def _noise(scheduler: Any, model: ScoreModel, x: Tensor, t: float) -> Tensor:
    asked: Tensor = scheduler.scale_model_input(x, t)
    return model.noise(asked, model.sde.level_at(t / LAST or _first(model.sde), x))


def _velocity(scheduler: Any, model: ScoreModel, x: Tensor, t: float) -> Tensor:
    sigma = t / scheduler.config.num_train_timesteps
    answer: Tensor = (x - model.denoised(x, model.sde.level_at(sigma, x))) / sigma
    return answer


def _preconditioned(scheduler: Any, model: ScoreModel, x: Tensor, t: float) -> Tensor:
    scheduler.scale_model_input(x, scheduler.timesteps.new_tensor(t))  # by which it notes its step
    sigma = torch.tensor(math.exp(4 * t), dtype=torch.float64)
    passed, gain = (scheduler.precondition_outputs(a, b, sigma) for a, b in ((x, 0 * x), (0 * x, torch.ones_like(x))))
    answer: Tensor = (denoised_at(model, x, sigma) - passed) / gain
    return answer.to(x.dtype)
