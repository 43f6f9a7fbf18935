"""The solvers of deepinv on its reverse SDEs, each in its own code, uniform in its time and in double precision."""

import inspect
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, matches_re
from torch import Tensor
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from .library import ForeignSampler, denoised_at, keyed, noise_ratios


@attrs.frozen
class DeepinvSampler(ForeignSampler):
    """``{solver}Solver`` of the library on its reverse SDE ``diffusion``, for every process with one alpha > 0.

    EDMDiffusionSDE and SongDiffusionSDE take alpha and sigma, or f and g, from the process, VarianceExplodingDiffusion
    the ends of its sigma / alpha; VariancePreservingDiffusion and FlowMatching have a schedule of their own. The
    library asks for denoised states in single precision. ``options`` are arguments of the solver, as ``{eta=0.5}``.
    """

    library, chosen = "deepinv", "solver"
    example: ClassVar[dict[str, Any]] = {"solver": "Heun"}

    solver: str = param(help="the name of its class without Solver, such as DDIM", check=matches_re(r"\w+"))
    diffusion: str = param("EDMDiffusionSDE", "a reverse SDE of deepinv.sampling", matches_re(r"\w+"))
    diffusion_options: dict = param(attrs.Factory(dict), "its arguments: {alpha=0.0}")  # type: ignore[type-arg]
    end: float = param(1e-3, "last time of the grid: 1e-3 in its examples, 0 in those of FlowMatching", ge(0))
    posterior: bool = param(False, "as PosteriorDiffusion without data, which denoises at the end")
    steps: int = param(50, "steps as the library counts them: times, one more than its steps", ge(2))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        before = model.calls

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            if observe is not None:
                observe(model.calls - before, 0, x)
            return denoised_at(model, x, sigma)

        reverse, sampler = self._made(model.sde, denoiser, x.device)
        start = reverse.scale_t(reverse.T) * reverse.sigma_t(reverse.T) / model.sde.prior.std
        with keyed(noise):
            return sampler(x.to(reverse.dtype) * start).to(x.dtype)  # type: ignore[no-any-return]

    def check(self, sde: SDE) -> None:
        if noise_ratios(sde)[0] == float("inf") and self.diffusion != "FlowMatching":
            raise ValueError("it divides by alpha, which is 0 at the end: take vp, or diffusion=FlowMatching")
        self._made(sde, lambda x, sigma: x, torch.device("cpu"))

    def _made(self, sde: SDE, denoiser: Any, device: torch.device) -> tuple[Any, Any]:
        """The reverse SDE, and what makes samples of its start."""
        from deepinv import sampling

        own: dict[str, dict[str, Any]] = {
            "EDMDiffusionSDE": {"sigma_t": lambda t: sde.sigma(t) / sde.alpha(t), "scale_t": sde.alpha},
            "SongDiffusionSDE": {"beta_t": lambda t: -2 * sde.drift_rate(t), "xi_t": lambda t: sde.diffusion(t) ** 2},
            "VarianceExplodingDiffusion": dict(zip(("sigma_max", "sigma_min"), noise_ratios(sde), strict=True)),
        }
        diffusion = getattr(sampling, self.diffusion)
        known = {name for kind in diffusion.__mro__ for name in inspect.signature(kind).parameters}
        if unknown := sorted(set(self.diffusion_options) - known):  # which the library would ignore
            raise ValueError(f"{self.diffusion} has no argument {unknown[0]!r}")
        given = {**own.get(self.diffusion, {}), **self.diffusion_options}
        reverse = diffusion(denoiser=denoiser, minus_one_one=False, device=device, **given)
        kind = getattr(sampling, f"{self.solver}Solver")
        reverse.solver = kind(t_start=reverse.T, t_end=self.end, num_steps=self.steps, **self.options)
        if not self.posterior:
            return reverse, reverse.sample
        posterior = sampling.PosteriorDiffusion(sde=reverse, minus_one_one=False, device=device)
        return reverse, lambda x: posterior(None, None, x_init=x)
