"""A Gaussian with any covariance: the one target whose sampling error is known without samples.

    x_0 ~ N(mu, Q diag(lam) Q^T)   =>   x = alpha x_0 + sigma eps ~ N(alpha mu, Q diag(alpha^2 lam + sigma^2) Q^T)
    score = -Q diag(alpha^2 lam + sigma^2)^-1 Q^T (x - alpha mu)

Every sampler here is an affine map of such data, mode by mode (Pierret & Galerne 2025, arXiv:2405.14250). The
eigenbasis Q comes from a matrix, is the identity for standard deviations, or is the cosine basis of an image-like
covariance whose spectrum is a power law of frequency, as for natural images with an exponent near 2 (Field 1987).
There Q is a product of one small matrix per axis, so 3 x 64 x 64 is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Self

import attrs
import torch
from attrs import validators
from torch import Tensor
from scoresde_core import DATA, Basis, Estimate, Level, Noise, Target, param
from scoresde_core.frame import rotate
from ..numerics.cosines import cosines
from .mixture import MixtureOfFactorAnalysers, coefficients, events, in_parts


@attrs.frozen(eq=False)
class _Law:
    """mu (D,), lam (D,) and Q^T as orthogonal matrices over the axes of a view of the event; float64."""

    mean: Tensor
    spectrum: Tensor
    view: tuple[int, ...]
    axes: Basis
    dtype: torch.dtype = torch.float32

    def rotate(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Return Q^T x, or Q x with ``inverse``, for rows (B, D)."""
        return rotate(x.reshape(-1, *self.view), self.axes, inverse).flatten(1)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> _Law:
        axes = tuple(matrix if matrix is None else matrix.to(device) for matrix in self.axes)
        return attrs.evolve(self, mean=self.mean.to(device), spectrum=self.spectrum.to(device), axes=axes, dtype=dtype)


@attrs.frozen
class GaussianTarget(Target):
    """N(mean, covariance) over events of ``shape``, with D entries.

    The covariance is ``std`` squared times the identity (or the diagonal of D standard deviations), or a full
    ``covariance`` (D, D), or, with ``decay``, a power-law spectrum: the cosine mode with frequencies f (cycles per
    event along each axis) has a variance proportional to (1 + |f|^2)^(-decay/2), scaled so that the mean variance of
    an entry is std^2. The first of three axes holds channels, which are independent and identical.
    """

    shape: tuple[int, ...] = param((2,), "event shape", validators.min_len(1))
    mean: float | tuple[float, ...] = param(0.0, "mean: one number, or D in row-major order")
    std: float | tuple[float, ...] = param(1.0, "standard deviation: one number, or D in row-major order")
    covariance: tuple[tuple[float, ...], ...] | None = param(None, "full covariance, D rows of D, instead of std")
    decay: float | None = param(None, "exponent of a power-law spectrum over the spatial axes")

    def __attrs_post_init__(self) -> None:
        self._check()
        self._law  # noqa: B018  # refuse an invalid covariance before any work starts

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return ``n`` draws (n, *shape), float32 on the CPU; the first m are the draws of ``sample(m, seed)``."""
        law = self._law.to("cpu", torch.float64)

        def drawn(count: int, start: int) -> Tensor:
            z = Noise(seed, law.mean.shape, count, start=start, dtype=torch.float64).draw("target", "noise")
            return (law.mean + law.rotate(z * law.spectrum.sqrt(), inverse=True)).float()

        return in_parts(drawn, n).reshape(n, *self.shape)

    def log_prob(self, x: Tensor, level: Level = DATA) -> Tensor:
        """log N(x; alpha mu, alpha^2 C + sigma^2 I) in nats, (B, *shape) -> (B,)."""
        turned, variance = self._whiten(x, level)
        volume = variance.log().sum(1) + variance.shape[1] * math.log(2 * math.pi)
        return -0.5 * ((turned.square() / variance.to(turned.dtype)).sum(1) + volume.to(turned.dtype))

    def score(self, x: Tensor, level: Level = DATA) -> Tensor:
        turned, variance = self._whiten(x, level)
        return self._law.rotate(turned / -variance.to(turned.dtype), inverse=True).reshape(x.shape)

    def entropy(self) -> Estimate:
        """(D log 2 pi e + log|C|) / 2 in nats, exact."""
        spectrum = self._law.spectrum
        return Estimate(0.5 * float(spectrum.log().sum() + len(spectrum) * math.log(2 * math.pi * math.e)))

    def moments(self) -> tuple[Tensor, Tensor]:
        law = self._law
        half = law.rotate(law.spectrum.sqrt().diag(), inverse=True)
        return law.mean.clone(), half.T @ half

    def as_mixture(self) -> MixtureOfFactorAnalysers:
        """One component, with a factor for each direction of more than the smallest variance unless C is diagonal."""
        law, dim = self._law, len(self._law.mean)
        if all(matrix is None for matrix in law.axes):
            factors, noise = law.mean.new_zeros(1, 0, dim), law.spectrum
        else:
            least = 0.5 * law.spectrum.min()
            factors = law.rotate((law.spectrum - least).sqrt().diag(), inverse=True).unsqueeze(0)
            noise = least.expand(dim).clone()
        weights = torch.ones(1, dtype=torch.float64, device=law.mean.device)
        return MixtureOfFactorAnalysers(weights, law.mean.unsqueeze(0), factors, noise, self.shape, dtype=law.dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        clone = attrs.evolve(self)
        object.__setattr__(clone, "_law", self._law.to(device, dtype))
        return clone

    @cached_property
    def _law(self) -> _Law:
        dim = prod(self.shape)
        mean = _vector(self.mean, dim)
        if self.covariance is not None:
            matrix = torch.tensor(self.covariance, dtype=torch.float64)
            if not torch.allclose(matrix, matrix.T, rtol=1e-9, atol=0):
                raise ValueError(f"covariance must be symmetric, got {[list(row) for row in self.covariance]}")
            spectrum, basis = torch.linalg.eigh(matrix)
            if not bool(spectrum[0] > 0):
                least = f"its smallest eigenvalue is {float(spectrum[0]):.3g}"
                raise ValueError(f"covariance must be positive definite, {least}")
            return _Law(mean, spectrum, (dim,), (basis.T,))
        if self.decay is None:
            return _Law(mean, _vector(self.std, dim).square(), (dim,), (None,))
        channels, spatial = (self.shape[:1], self.shape[1:]) if len(self.shape) == 3 else ((), self.shape)
        squares = [(torch.arange(size, dtype=torch.float64) / 2).square() for size in spatial]
        spectrum = (1 + torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0)) ** (-self.decay / 2)
        spectrum *= _vector(self.std, 1).square() / spectrum.mean()
        axes = (*(None for _ in channels), *(cosines(size) for size in spatial))
        return _Law(mean, spectrum.expand(*channels, *spatial).flatten().clone(), self.shape, axes)

    def _whiten(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Return Q^T (x - alpha mu) in the working dtype, (B, D), and its variances in float64, (1, D) or (B, D)."""
        law, flat = self._law, events(x, self.shape)
        flat = flat.to(torch.promote_types(flat.dtype, law.dtype))
        alpha, sigma = coefficients(level, flat)
        variance = (alpha**2 * law.spectrum + sigma**2).reshape(-1, len(law.spectrum))
        return law.rotate(flat - (alpha * law.mean).to(flat.dtype)), variance

    def _check(self) -> None:
        dim = prod(self.shape)
        if min(self.shape) < 1:
            raise ValueError(f"shape needs positive sizes, got {self.shape}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != dim:
                raise ValueError(f"{name} needs one number or {dim} for shape {self.shape}, got {len(value)}")
        if float(torch.as_tensor(self.std, dtype=torch.float64).min()) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.covariance is not None and self.decay is not None:
            raise ValueError("covariance and decay are both given: omit one of them")
        if self.covariance is not None and [len(row) for row in self.covariance] != [dim] * dim:
            raise ValueError(f"covariance needs {dim} rows of {dim} for shape {self.shape}")
        if self.decay is not None and (isinstance(self.std, tuple) or self.decay < 0):
            raise ValueError(f"decay needs a single std and must not be negative, got {self.decay} with std {self.std}")


def _vector(value: float | Sequence[float], dim: int) -> Tensor:
    return torch.tensor(value, dtype=torch.float64).expand(dim).clone()
