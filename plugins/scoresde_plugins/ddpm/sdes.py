r"""Processes of DDPM's successors: the cosine schedule, and tables of discrete models as continuous processes.

A table of abar_i = prod_{j <= i} (1 - beta_j), i = 0 .. N-1, has entry i at t = i / (N - 1), the label rule ``index``.
Between entries the angle phi = atan(sqrt(abar / (1 - abar))) is interpolated by cubics:

    alpha = sin phi,   sigma = cos phi       (finite without terminal signal, phi = 0)
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, in_, lt, min_len, optional
from torch import Tensor
from scoresde_core import SDE, FileError, Level, param
from scoresde_run.machine import inputs
from ..song2021.sdes import T_MIN_HELP

_LAWS = {"linear": (1.0, 1e-4, 0.02), "scaled_linear": (0.5, 0.00085, 0.012)}
"""The power of beta that is evenly spaced, and beta of the first and the last entry."""


@attrs.frozen
class CosineSDE(SDE):
    r"""alpha = cos(a) / cos(b) with a = (t + s) / (1 + s) pi / 2 and b = a at t = 0 (arXiv:2102.09672, Eq. 17).

    It preserves the variance: sigma^2 = 1 - alpha^2 = sin(a - b) sin(a + b) / cos(b)^2. The signal vanishes at t = 1.
    """

    s: float = param(0.008, "offset, which keeps beta from being too small near t = 0", and_(gt(0), lt(1)))
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(0.5)))

    @property
    def _b(self) -> float:
        return 0.5 * math.pi * self.s / (1 + self.s)

    def alpha(self, t: Tensor) -> Tensor:
        """Its angle is pi / 2 - a, exactly 0 at t = 1."""
        return torch.sin(0.5 * math.pi * (1 - t) / (1 + self.s)) / math.cos(self._b)

    def sigma(self, t: Tensor) -> Tensor:
        angle = 0.5 * math.pi * t / (1 + self.s)
        return (torch.sin(angle) * torch.sin(angle + 2 * self._b)).sqrt() / math.cos(self._b)

    def time_at(self, log_noise_ratio: Tensor, t_min: float | None = None) -> Tensor:
        """tan(a)^2 = (r^2 + sin(b)^2) / cos(b)^2 for r = sigma / alpha."""
        squared = (2 * log_noise_ratio.double()).exp()
        a = ((squared + math.sin(self._b) ** 2).sqrt() / math.cos(self._b)).atan()
        return ((a - self._b) * (2 * (1 + self.s) / math.pi)).clamp(t_min or self.t_min, 1)


@attrs.frozen
class TableSDE(SDE):
    """The process of a discrete model's table, between its entries as well; alpha(0) < 1 is that of its first entry.

    ``linear``: DDPM, beta from 1e-4 to 0.02; ``scaled_linear``: latent diffusion, 0.00085 to 0.012, evenly spaced in
    sqrt(beta); ``squaredcos``: the cosine schedule with beta at most 0.999. ``path`` is an npz file in place of these,
    with ``betas`` or ``alphas_cumprod`` (N,). ``zero_terminal_snr`` makes the last abar 0 (arXiv:2305.08891, Alg. 1).
    """

    betas: Literal["linear", "scaled_linear", "squaredcos"] = param("linear", "law of beta over the entries")
    first: float | None = param(None, "beta of the first entry; null: as published", optional(and_(gt(0), lt(1))))
    last: float | None = param(None, "beta of the last entry; null: as published", optional(and_(gt(0), lt(1))))
    entries: int = param(1000, "number of entries N", ge(4))
    path: str | None = param(None, "file of betas or alphas_cumprod; null: the law above")
    zero_terminal_snr: bool = param(False, "no signal at t = 1", kw_only=True)
    values: tuple[float, ...] | None = param(
        None, "betas in place of a law or file", optional(min_len(4)), kw_only=True
    )
    precision: Literal["double", "single"] = param(
        "double",
        "of the products of 1 - beta; single: as diffusers computes them",
        in_(("double", "single")),
        kw_only=True,
    )
    t_min: float = param(1e-3, T_MIN_HELP, and_(gt(0), lt(0.5)))

    def __attrs_post_init__(self) -> None:
        _angles(self, torch.device("cpu"))

    def _angle(self, t: Tensor) -> Tensor:
        """phi at ``t``, float64: a cubic between entries, with slopes from the neighbours."""
        phi, slope = _angles(self, t.device)
        place = t.double() * (len(phi) - 1)
        k = place.detach().long().clamp(0, len(phi) - 2)
        u = place - k
        rise = phi[k + 1] - phi[k]
        bend, twist = slope[k] - rise, slope[k + 1] - rise
        return phi[k] + u * rise + u * (1 - u) * (bend * (1 - u) - twist * u)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._angle(t)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t)).to(t.dtype)

    def discrete_level(self, t: Tensor, n: int) -> Level:
        return self.level((t * (n - 1)).round() / (n - 1))


@lru_cache(maxsize=16)
def _angles(sde: TableSDE, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return phi (N,) and its slopes per entry, float64, cached; ``ValueError`` for a table that is none."""
    products = _products(sde)
    falling = bool((products.diff() < 0).all())
    if len(products) < 4 or not falling or not 0 < float(products[0]) <= 1 or float(products[-1]) < 0:
        why = "a table needs at least 4 values of alphas_cumprod that fall from at most 1 to at least 0"
        raise ValueError(f"{why}, got {len(products)} from {float(products[0]):.4g} to {float(products[-1]):.4g}")
    phi = torch.atan2(products.sqrt(), (1 - products).sqrt())
    inner = 0.5 * (phi[2:] - phi[:-2])
    slope = torch.cat([(phi[1] - phi[0]).reshape(1), inner, (phi[-1] - phi[-2]).reshape(1)])
    return phi.to(device), slope.to(device)


def _products(sde: TableSDE) -> Tensor:
    """Return abar_i (N,), float64."""
    products = _read(Path(sde.path)) if sde.path is not None else (1 - betas_of(sde)).cumprod(0)
    if sde.zero_terminal_snr:  # by way of beta, so that single precision rounds as published
        root = products.sqrt()
        products = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).square()
        beta = 1 - torch.cat([products[:1], products[1:] / products[:-1]])
        products = (1 - beta).cumprod(0)
    return products.double()


def betas_of(sde: TableSDE) -> Tensor:
    """Return beta_i (N,), in the precision of the table."""
    dtype = torch.float64 if sde.precision == "double" else torch.float32
    if sde.path is not None:
        products = _read(Path(sde.path))
        return (1 - products / torch.cat([products.new_ones(1), products[:-1]])).to(dtype)
    if sde.values is not None:
        return torch.tensor(sde.values, dtype=dtype, device="cpu")
    n = sde.entries
    if sde.betas == "squaredcos":
        edges = torch.linspace(0, 1, n + 1, dtype=torch.float64, device="cpu")
        signal = torch.cos((edges + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - signal[1:] / signal[:-1]).clamp_max(0.999).to(dtype)  # arXiv:2102.09672, Section 3.2
    power, first, last = _LAWS[sde.betas]
    ends = (float(sde.first or first) ** power, float(sde.last or last) ** power)
    return torch.linspace(*ends, n, dtype=dtype, device="cpu") ** (1 / power)


def _read(path: Path) -> Tensor:
    try:
        with inputs.arrays(path) as file:
            for name in ("alphas_cumprod", "betas"):
                if name in file.names:
                    values = torch.from_numpy(file[name].astype(np.float64))
                    return values if name == "alphas_cumprod" else (1 - values).cumprod(0)
    except FileError as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"{path} has neither betas nor alphas_cumprod: save one of them with numpy.savez")
