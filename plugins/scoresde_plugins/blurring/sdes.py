r"""Blurring diffusion (Hoogeboom & Salimans 2023, arXiv:2209.05557, Eq. 10-17): heat flow and noise together.

In the orthonormal cosine basis c = Q x, with frequencies n_h, n_w of an H x W image,

    c_t = a(t) d(t) c_0 + sigma(t) eps,   d = (1 - d_min) e^{-lam tau} + d_min,   lam = pi^2 (n_h^2/H^2 + n_w^2/W^2)
    tau = s_B(t)^2 / 2,   s_B = s_max sin(pi t / 2)^2

with a and sigma those of a variance-preserving process. Fine detail goes first, by blur; noise covers what is left.
"""

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor
from scoresde_core import SDE, Basis, param
from ..linear.diagonal import DiagonalSDE
from ..numerics.cosines import cosines
from ..song2021.sdes import T_MIN_HELP, VPSDE


@attrs.frozen
class BlurringSDE(DiagonalSDE):
    """Blur of up to ``s_max`` pixels and the noise of another process, for images of ``size`` by ``size``."""

    example: ClassVar = {"size": 8}  # for the conformance suite

    size: int = param(32, "side of the images in pixels", ge(2))
    s_max: float = param(20.0, "largest width of the blur in pixels", ge(0))
    d_min: float = param(1e-3, "smallest share of a frequency that the blur leaves", and_(gt(0), lt(1)))
    noise: SDE = param(attrs.Factory(VPSDE), "the process whose alpha and sigma are a and sigma")
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(1)))

    def __attrs_post_init__(self) -> None:
        if self.noise.form != "scalar" or self.noise.needs or self.noise.t_signal < 1:
            raise ValueError(f"noise needs a process of one alpha > 0 and sigma up to t = 1, got {self.noise}")

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Refuse events that are no images of the size of the basis."""
        if len(shape) == 3 and shape[1] == shape[2] == self.size:
            return None
        remedy = f"blurring[size={shape[1]}]" if len(shape) == 3 and shape[1] == shape[2] else "square images"
        return f"blurring has a basis for images of {self.size} x {self.size}, events have shape {shape}: take {remedy}"

    @property
    def basis(self) -> Basis:
        return (None, cosines(self.size), cosines(self.size))

    def alpha(self, t: Tensor) -> Tensor:
        cycles = (torch.arange(self.size, dtype=t.dtype, device=t.device) * (math.pi / self.size)).square()
        rate = cycles.reshape(-1, 1) + cycles
        tau = 0.5 * (self.s_max * torch.sin(0.5 * math.pi * t).square()).square()
        left = (1 - self.d_min) * torch.exp(-rate * tau[..., None, None]) + self.d_min
        return (self.noise.alpha(t)[..., None, None] * left).unsqueeze(-3)

    def sigma(self, t: Tensor) -> Tensor:
        return self.noise.sigma(t).reshape(*t.shape, 1, 1, 1)
