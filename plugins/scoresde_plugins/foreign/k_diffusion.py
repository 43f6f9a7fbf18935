"""The samplers of k-diffusion, each in its own code, from its Karras grid to its last step."""

import inspect
from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import matches_re
from torch import Tensor
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from .library import ForeignSampler, denoised_at, keyed, noise_ratios


@attrs.frozen
class KDiffusionSampler(ForeignSampler):
    """``sample_{function}`` of the library, with sigma / alpha as its sigma: for every process with one alpha > 0.

    ``options`` are its arguments, as ``{s_churn=40}``. ``steps`` has no effect on ``dpm_adaptive``.
    """

    library, chosen = "k-diffusion", "function"
    example: ClassVar[dict[str, Any]] = {"function": "dpmpp_2m"}

    function: str = param(help="its name without sample_, such as dpmpp_2m", check=matches_re(r"\w+"))
    spacing: Literal["karras", "exponential", "polyexponential"] = param("karras", "the library's grid of sigmas")

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        from k_diffusion import sampling

        high, low = noise_ratios(model.sde)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return denoised_at(model, x, sigma[:1])

        def callback(about: dict[str, Any]) -> None:
            if observe is not None:
                observe(about["i"] + 1, self.steps, about["x"])

        how = {"disable": True, "callback": callback, **self.options}
        call = getattr(sampling, f"sample_{self.function}")
        x = x * (high / model.sde.prior.std)
        with keyed(noise):
            if self.function in ("dpm_fast", "dpm_adaptive"):
                counted = {"n": self.steps} if self.function == "dpm_fast" else {}
                found: Tensor = call(denoiser, x, low, high, **counted, **how)
            else:
                sigmas = getattr(sampling, f"get_sigmas_{self.spacing}")(self.steps, low, high, device=x.device)
                found = call(denoiser, x, sigmas.to(x.dtype), **how)
        return found

    def check(self, sde: SDE) -> None:
        from k_diffusion import sampling

        inspect.signature(getattr(sampling, f"sample_{self.function}")).bind_partial(**self.options)
        if noise_ratios(sde)[0] == float("inf"):
            raise ValueError("it divides by alpha, which is 0 at the end: take vp")
