"""Uniform dequantisation (Theis et al. 2016, arXiv:1511.01844, Section 3.1)."""

import attrs
import torch
from torch import Tensor
from scoresde_core import Draw
from scoresde_run import Dequantizer


@attrs.frozen
class UniformDequantizer(Dequantizer):
    """v + u with u uniform on [0, 1): log q(u | v) = 0."""

    def dequantize(self, images: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        """(B, ...) integers -> v + u, of the noise's dtype, and zeros (B,)."""
        # The normal distribution function of normal noise; a u rounded to 1 would be outside the cell of v.
        uniform = torch.special.ndtr(noise())
        uniform = uniform.clamp_max(1 - 2.0**-16)
        return images.to(uniform) + uniform, uniform.new_zeros(len(images))
