"""Excess negative log-likelihood: how far from typical the samples are under the true density.

    gap = E_q[-log p(x)] - H(p) = KL(q || p) + H(q) - H(p)

It is 0 for q = p, positive where samples lie where p is small, and negative where they are too typical (collapsed onto
the modes, or denoised too far). A good sampler brings it to zero, not below.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
from torch import Tensor

from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better
from scoresde_run.data.evidence import Reference
from scoresde_run.results.certainty import difference

from .comparison import Comparison


@attrs.frozen
class NLLGap(Comparison):
    """Mean of -log p(x_i) minus the entropy of p, in nats per event; best at 0.

    The standard error adds those of the sample mean and of the entropy in quadrature.
    """

    name: ClassVar[str] = "nll_gap"
    unit: ClassVar[str] = "nats"
    better: ClassVar[Better] = "zero"

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        surprise = -reference.precise.log_prob(samples).double()
        entropy = reference.once("entropy", reference.precise.entropy)
        n = len(samples)
        return difference(Estimate(float(surprise.mean()), float(surprise.std()) / math.sqrt(n), n - 1), entropy)
