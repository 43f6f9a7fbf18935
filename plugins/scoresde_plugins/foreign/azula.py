"""The samplers of azula, each in its own code, on its grid: uniform in time."""

from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, matches_re
from torch import Tensor, nn
from scoresde_core import SDE, Noise, Observer, ScoreModel, param
from .library import ForeignSampler, keyed


@attrs.frozen
class AzulaSampler(ForeignSampler):
    """``{sampler}Sampler`` of the library, from t_max to t_min of a process with one alpha and sigma.

    ``options`` are arguments of its class, as ``{order=3}``.
    """

    library, chosen = "azula", "sampler"
    example: ClassVar[dict[str, Any]] = {"sampler": "Heun"}

    sampler: str = param(help="the name of its class without Sampler, such as DDIM", check=matches_re(r"\w+"))
    steps: int = param(64, "number of steps", ge(1))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        with keyed(noise):
            return self._made(model, x, observe)(x)  # type: ignore[no-any-return]

    def check(self, sde: SDE) -> None:
        self._made(ScoreModel, torch.zeros(1))

    def _made(self, model: Any, x: Tensor, observe: Observer | None = None) -> Any:
        from azula import sample

        return getattr(sample, f"{self.sampler}Sampler")(
            Denoiser(model, observe), steps=self.steps, silent=True, dtype=x.dtype, device=x.device, **self.options
        )


class Denoiser(nn.Module):
    """A score model as a denoiser of azula, whose time 0 is t_min and 1 the end of the signal; it calls ``observe``."""

    def __init__(self, model: ScoreModel, observe: Observer | None) -> None:
        super().__init__()
        self.model, self.observe, self.calls = model, observe, 0

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at their time."""
        sde, time = self.model.sde, self._time(t)
        return sde.alpha(time).to(t.dtype), sde.sigma(time).to(t.dtype)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        from azula.denoise import DiracPosterior

        self.calls += 1
        if self.observe is not None:
            self.observe(self.calls, 0, x)
        return DiracPosterior(self.model.denoised(x, self.model.sde.level_at(float(self._time(t)), x)))

    def _time(self, t: Tensor) -> Tensor:
        sde = self.model.sde
        return sde.t_min + (sde.t_signal - sde.t_min) * t.double()
