"""The identity: y is the event, and noise is all that is lost."""

import attrs
import torch
from torch import Tensor
from scoresde_run import Operator, Spectrum
from scoresde_run.sampling.operator import Shape


@attrs.frozen
class IdentityOperator(Operator):
    """A = 1, for denoising."""

    mixes_channels = False

    def measured(self, shape: Shape) -> Shape:
        return shape

    def apply(self, x: Tensor) -> Tensor:
        return x

    def spectrum(self, shape: Shape) -> Spectrum:
        return Spectrum(torch.ones(shape, dtype=torch.float64))
