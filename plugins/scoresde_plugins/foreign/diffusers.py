"""The schedulers of diffusers, each in its own code, with its own grid and the defaults that it ships with.

A scheduler steps through timesteps 999 .. 0 of a table of betas, from sigma 1 to 0 of a flow, or through EDM's sigmas.
The model answers as a network that is told it: at the time timestep / 999 of the process, whose betas it is given.
"""

import inspect
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import matches_re
from torch import Tensor
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from .library import LAST, ForeignSampler, betas_of, denoised_at, first_time, keyed

_FINE: set[tuple[Any, ...]] = set()
"""The schedulers that were made before, each with its options and process."""


@attrs.frozen
class DiffusersSampler(ForeignSampler):
    """A scheduler of the library; processes with alpha^2 + sigma^2 = 1, alpha + sigma = 1 (flow) or alpha = 1 (EDM).

    ``options`` are arguments of its class, as ``{use_karras_sigmas=true}``. Consistency samplers (LCM, TCD) are for
    networks that jump to the data, and have another law with any other.
    """

    library, chosen = "diffusers", "scheduler"
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
        case = (self.scheduler, repr(self.options), repr(sde), sde.t_max)
        if case not in _FINE:  # once for all numbers of steps: some take half a second to make
            self._made(sde)
            _FINE.add(case)

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


def _noise(scheduler: Any, model: ScoreModel, x: Tensor, t: float) -> Tensor:
    asked: Tensor = scheduler.scale_model_input(x, t)
    return model.noise(asked, model.sde.level_at(t / LAST or first_time(model.sde), x))


def _velocity(scheduler: Any, model: ScoreModel, x: Tensor, t: float) -> Tensor:
    sigma = t / scheduler.config.num_train_timesteps
    return torch.div(x - model.denoised(x, model.sde.level_at(sigma, x)), sigma)


def _preconditioned(scheduler: Any, model: ScoreModel, x: Tensor, t: float) -> Tensor:
    scheduler.scale_model_input(x, scheduler.timesteps.new_tensor(t))  # by which it notes its step
    sigma = torch.tensor(4 * t, dtype=torch.float64).exp()
    passed, gain = (scheduler.precondition_outputs(a, b, sigma) for a, b in ((x, 0 * x), (0 * x, torch.ones_like(x))))
    return torch.div(denoised_at(model, x, sigma) - passed, gain).to(x.dtype)
