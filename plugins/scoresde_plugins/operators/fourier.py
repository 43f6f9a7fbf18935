r"""Some frequencies of an event, as in magnetic resonance imaging: a mask in Fourier space.

The basis is the real orthonormal one, for a side of N entries: 1 / sqrt(N), then sqrt(2 / N) cos(2 pi k n / N) and
sqrt(2 / N) sin(2 pi k n / N) for k = 1, 2, ..., and (-1)^n / sqrt(N) if N is even. A frequency k is known with both
signs, so these are the numbers of the complex transform of a real event.
"""

import math
from typing import Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, le
from torch import Tensor
from scoresde_core import Basis, Noise, param
from scoresde_run.sampling.operator import Shape
from .structure import SelectedOperator


@attrs.frozen
class FourierOperator(SelectedOperator):
    """The lowest frequencies of an event, and a random share of all others: of the last side, or of all sides."""

    mask: Literal["lines", "points"] = param("lines", "lines: frequencies of the last side; points: of all sides")
    share: float = param(0.25, "probability that a frequency is measured", and_(ge(0), le(1)))
    center: float = param(0.1, "share of the lowest frequencies of a side, all measured", and_(gt(0), le(1)))
    seed: int = param(0, "seed of the mask", ge(0))

    def kept(self, shape: Shape) -> Tensor:
        sides = self._sides(shape)
        frequencies = [(torch.arange(size) + 1) // 2 for size in sides]
        counts = tuple(size // 2 + 1 for size in sides)
        chosen = Noise(self.seed, counts, 1, dtype=torch.float64).uniform("operator", "mask")[0] < self.share
        low = torch.ones(counts, dtype=torch.bool)
        for axis, count in enumerate(counts):
            low.movedim(axis, -1).logical_and_(torch.arange(count) < max(1, self.center * count))
        return (chosen | low)[torch.meshgrid(*frequencies, indexing="ij")]

    def basis(self, shape: Shape) -> Basis:
        sides = self._sides(shape)
        return (*[None] * (len(shape) - len(sides)), *map(fourier_basis, sides))

    def _sides(self, shape: Shape) -> Shape:
        """The last side, or all axes but that of channels."""
        if len(shape) < 2:
            raise ValueError(f"fourier needs events with channels and sides (C, H, W), not of shape {list(shape)}")
        return shape[-1:] if self.mask == "lines" else shape[1:]


def fourier_basis(size: int) -> Tensor:
    """The real orthonormal Fourier basis (size, size), float64, by rising frequency, cosines before sines."""
    k, n = ((torch.arange(size) + 1) // 2).double(), torch.arange(size, dtype=torch.float64)
    phase = ((torch.arange(size) % 2 == 0) & (k > 0)).double() * (math.pi / 2)
    rows: Tensor = torch.cos(torch.outer(k, n) * (2 * math.pi / size) - phase.unsqueeze(1))
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # type: ignore[no-any-return]
