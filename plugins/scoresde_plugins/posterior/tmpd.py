"""TMPD (Boys et al. 2023, arXiv:2310.06721, Section 4): shift = V A^T (diag(A V A^T 1) + r^2)^{-1} (y - A D)."""

import attrs
import torch
from torch import Tensor
from .method import Look, PosteriorMethod


@attrs.frozen
class TMPD(PosteriorMethod):
    """Guidance with a variance a measurement; two Jacobian products an evaluation. Sums below 0 count as 0."""

    needs_noise = True

    def shift(self, look: Look) -> Tensor:
        sums = (look.gain * look.known.seen(look.covary(torch.ones_like(look.residual)))).clamp_min(0)
        return look.covary(look.residual / (look.variance + sums))
