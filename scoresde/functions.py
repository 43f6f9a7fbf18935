"""The function for people with a loop of their own: no registry, no preset."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Noise, UsageError, create, skip
from scoresde_run import NetworkScore

Scale = Callable[[Tensor], Tensor | float]


@attrs.frozen
class _Path(SDE):
    """x_t = alpha(t) x_0 + sigma(t) eps with the caller's functions."""

    signal: Scale
    noise: Scale
    t_min: float
    t_max: float

    def alpha(self, t: Tensor) -> Tensor:
        return torch.as_tensor(self.signal(t), dtype=t.dtype) + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        return torch.as_tensor(self.noise(t), dtype=t.dtype) + 0 * t


@torch.no_grad()
def solve(
    denoiser: Callable[[Tensor, Tensor], Tensor], alpha: Scale, sigma: Scale, x: Tensor, steps: int = 10,
    predictor: str = "dpmpp_2m", *, t_min: float = 1e-3, t_max: float = 1.0, seed: int = 0, **parts: Any,
) -> Tensor:  # fmt: skip
    """Carry ``x`` (B, ...) at ``t_max`` to data (B, ...) by ``steps`` steps of a predictor.

    ``denoiser(x, t)`` is E[x_0 | x_t = x] for times ``t`` (B,), ``alpha`` and ``sigma`` give x_t = alpha(t) x_0 +
    sigma(t) eps for float64 tensors t in [t_min, t_max]; alpha may be 0 at t_max. The last step is from ``t_min``,
    below which the denoiser is never asked, to the data. ``seed`` is that of stochastic predictors; ``parts`` are
    ``corrector`` and ``grid``, as text. A predictor and its order: ``scoresde show predictor dpmpp_2m``.

    ``UsageError`` for an unknown predictor, or one that cannot serve the process.

    >>> x = 3 * torch.randn(64, 2)
    >>> data = solve(lambda x, t: x / (1 + t[:, None] ** 2), lambda t: 1.0, lambda t: 3 * t, x)
    """
    sde = _Path(alpha, sigma, t_min, t_max)
    model = NetworkScore(denoiser, sde, tuple(x.shape[1:]), parameterisation="denoised", label="t")  # type: ignore[arg-type]
    sampler = create("samplers", "pc", predictor=predictor, steps=steps, **parts)
    if reason := skip(sampler, sde, model.shape):
        raise UsageError(reason)
    noise = Noise(seed, model.shape, len(x), device=x.device, dtype=x.dtype)
    found: Tensor = sampler.run(x, model, noise)
    return found
