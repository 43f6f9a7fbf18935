"""Colorization (Song et al. 2021, arXiv:2011.13456, Section 5 and Appendix I.3): the grey of an image is known."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from scoresde_run.sampling.condition import Condition

from .known import KnownCoefficients, observe


@attrs.frozen
class Colorize(Condition):
    """The mean of the three channels is known at every pixel; two orthogonal colour channels are generated.

    Events are RGB images. Only their greys are observed, so an image of three equal channels is enough.
    """

    mixes_channels = True

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Refuse events without three channels."""
        return None if len(shape) == 3 and shape[0] == 3 else f"colorize needs images of 3 channels, not {shape}"

    def observe(self, x: Tensor) -> KnownCoefficients:
        reason = self.skip(tuple(x.shape[1:]))
        if reason:
            raise ValueError(reason)
        known = torch.zeros(1, *x.shape[1:], dtype=torch.bool)
        known[:, 0] = True
        return observe(x, known, (grey_basis(), None, None))


def grey_basis() -> Tensor:
    """Return an orthonormal (3, 3) matrix, float64, first row (1, 1, 1) / sqrt(3): a Householder reflection."""
    axis = torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)
    axis[0] -= 1
    return torch.eye(3, dtype=torch.float64) - 2 * torch.outer(axis, axis) / (axis @ axis)
