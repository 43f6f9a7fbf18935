r"""Truncated-normal dequantisation, without training (Zheng et al. 2023, arXiv:2305.03935, Section 4.2).

A score model of images without dequantisation knows x_t = alpha x_0 + sigma eps, where x_0 are grey levels. If u is
like that noise, about the grey level and inside its cell, the model meets what it was trained on:

    u = 1/2 + s n,   n standard normal on |n| < 1 / (2 s),   s = sigma / alpha at the time of the data, in grey levels
    log q(u | v) = sum log N(u; 1/2, s^2) - D log erf(1 / (2 sqrt(2) s))

It is uniform for large s, as under VE with sigma = 0.01.
"""

import math
from typing import ClassVar, Self

import attrs
import torch
from attrs.validators import gt, optional
from torch import Tensor
from scoresde_core import Draw, UsageError, param
from scoresde_run import Dequantizer


@attrs.frozen
class TruncatedNormalDequantizer(Dequantizer):
    """v + u with u normal about 1/2 and inside [0, 1), for models that were trained without dequantisation."""

    example: ClassVar = {"std": 0.3}
    centred: ClassVar = True

    std: float | None = param(
        None, "standard deviation in grey levels; null: of the model's noise at the time of the data", optional(gt(0))
    )

    def fitted(self, std: float) -> Self:
        return attrs.evolve(self, std=std) if self.std is None else self

    def dequantize(self, images: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        """(B, ...) integers -> v + u, of the noise's dtype, and log q (B,) in nats, in float64."""
        if self.std is None:
            raise UsageError("truncated_normal takes its std from a model with one alpha and sigma: give std=")
        eps = noise()
        # Below the middle, where probabilities keep their digits, then mirrored.
        outside = math.erfc(1 / (2 * math.sqrt(2) * self.std)) / 2
        below = torch.special.ndtr(-eps.double().abs())
        n = torch.special.ndtri(outside + (1 - 2 * outside) * below).copysign(eps)
        density = n.square() / 2 + math.log(self.std * math.sqrt(2 * math.pi) * (1 - 2 * outside))
        u = (0.5 + self.std * n).to(eps).clamp(0, 1 - 2.0**-16)
        return images.to(u) + u, -density.flatten(1).sum(1)
