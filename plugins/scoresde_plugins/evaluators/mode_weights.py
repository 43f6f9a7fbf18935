"""Mode weights: whether each component of a mixture receives its share of the samples.

The posterior responsibilities r_k(x) = w_k p_k(x) / p(x) average to the weights under the true mixture, without any
threshold or clustering: E_p r_k(x) = w_k exactly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scoresde_core.estimate import Estimate
from scoresde_run.data.evidence import Evidence, Reference

from .comparison import Comparison
from .moments import root

_DRAWS = 1024
"""Draws of the noise: they estimate the error to 2 %."""


@attrs.frozen
class ModeWeights(Comparison):
    """Total variation 1/2 sum_k |mean_i r_k(x_i) - w_k|, between 0 and 1.

    With d the differences and C their covariance, the two halves of the samples would give d + e and d - e, e ~ N(0,
    C), so the standard error is that of half-samples (``halves``):

        s^2 = E (TV(d + e) - TV(d - e))^2 / 4

    It is right where chance alone determines the signs, as in the floor, and where the differences are clearly not 0.
    """

    name: ClassVar[str] = "mode_weights"

    def skip(self, evidence: Evidence) -> str | None:
        if evidence.target is not None and evidence.target.modes() is None:
            return f"{type(evidence.target).__name__} has no components"
        return super().skip(evidence)

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        weights = reference.precise.modes()
        assert weights is not None  # checked by skip()
        shares = reference.precise.responsibilities(samples).double()
        if not bool(shares.isfinite().all()):
            return Estimate(math.nan, math.nan)
        n, excess = len(samples), shares.mean(0) - weights.to(shares)
        noise = _normal(len(excess)).to(shares) @ root(shares.T.cov().reshape(len(excess), -1) / n)
        apart = ((excess + noise).abs() - (excess - noise).abs()).sum(1) / 2
        return Estimate(float(excess.abs().sum() / 2), float(apart.square().mean().sqrt()) / 2, n - 1)


@lru_cache(maxsize=4)
def _normal(modes: int) -> Tensor:
    """Return independent standard normal numbers (draws, modes), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_DRAWS, modes, generator=generator, dtype=torch.float64)
