"""The samplers of k-diffusion, each in its own code, from its Karras grid to its last step."""

from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import ge, matches_re
from torch import Tensor
from scoresde_core import SDE, Noise, Observer, Sampler, ScoreModel, param
from scoresde_core.plugins import one_line
from .library import claimed, installed, keyed, missing


@attrs.frozen
class KDiffusionSampler(Sampler):
    """``sample_{function}`` of the library, with sigma / alpha as its sigma: for every process with one alpha > 0.

    ``options`` are its arguments, as ``{s_churn=40}``. ``steps`` has no effect on ``dpm_adaptive``.
    """

    example: ClassVar[dict[str, Any]] = {"function": "dpmpp_2m"}
    coarse: ClassVar[dict[str, Any]] = {"steps": 8}

    function: str = param(help="its name without sample_, such as dpmpp_2m", check=matches_re(r"\w+"))
    options: dict = param(attrs.Factory(dict), "arguments of the function, such as {eta=0.5}")  # type: ignore[type-arg]
    spacing: Literal["karras", "exponential", "polyexponential"] = param("karras", "the library's grid of sigmas")
    steps: int = param(50, "number of steps", ge(1))
    version: str = attrs.field(init=False, factory=lambda: installed("k-diffusion"))
    claims: int | None = attrs.field(init=False, default=claimed("k-diffusion", "function"))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        from k_diffusion import sampling

        sde, high, low = model.sde, *_ends(model.sde)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            level = sde.level_at(float(sde.time_at(sigma[:1].double().log().cpu())), x)
            return model.denoised(x * level.alpha, level)

        def callback(about: dict[str, Any]) -> None:
            if observe is not None:
                observe(about["i"] + 1, self.steps, about["x"])

        how = {"disable": True, "callback": callback, **self.options}
        call = getattr(sampling, f"sample_{self.function}")
        x = x * (high / sde.prior.std)
        with keyed(noise):
            if self.function in ("dpm_fast", "dpm_adaptive"):
                counted = {"n": self.steps} if self.function == "dpm_fast" else {}
                found: Tensor = call(denoiser, x, low, high, **counted, **how)
            else:
                sigmas = getattr(sampling, f"get_sigmas_{self.spacing}")(self.steps, low, high, device=x.device)
                found = call(denoiser, x, sigmas.to(x.dtype), **how)
        return found

    def skip(self, sde: SDE) -> str | None:
        """Refuse a process whose signal vanishes, and functions that the library has not."""
        if reason := missing("k-diffusion"):
            return reason
        try:
            from k_diffusion import sampling
        except Exception as error:  # it imports much, which may fail in any way
            return f"k-diffusion cannot be imported: {one_line(error)}"
        if not hasattr(sampling, f"sample_{self.function}"):
            return f"k-diffusion has no sample_{self.function}: choose one of k_diffusion.sampling"
        return None if _ends(sde)[0] < float("inf") else "k-diffusion divides by alpha, which is 0 at the end: take vp"


def _ends(sde: SDE) -> tuple[float, float]:
    """The largest and the smallest sigma / alpha."""
    times = torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
    high, low = (sde.sigma(times) / sde.alpha(times)).tolist()
    return high, low
