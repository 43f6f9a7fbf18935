r"""Mode weights: whether each component of a mixture receives its share of the samples.

The posterior responsibilities r_k(x) = w_k p_k(x) / p(x) average to the weights under the true mixture, with no
threshold and no clustering: E_p r_k(x) = w_k exactly.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
from torch import Tensor

from scoresde_core.evaluator import Comparison, Evidence, Reference
from scoresde_core.target import Estimate


@attrs.frozen
class ModeWeights(Comparison):
    """Total variation 1/2 sum_k |mean_i r_k(x_i) - w_k|, between 0 and 1.

    The standard error is that of the mean of 1/2 sum_k s_k r_k(x_i), with s_k the signs of the differences: exact
    to first order where the differences are clear of zero, too large (by 1.7 at most, for independent
    differences) where chance alone sets the signs, as it does in the floor.
    """

    name: ClassVar[str] = "mode_weights"

    def skip(self, evidence: Evidence) -> str | None:
        """A reason where the target has no components."""
        if evidence.target is not None and evidence.target.modes() is None:
            return f"{type(evidence.target).__name__} has no components to weigh"
        return super().skip(evidence)

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """The total variation of ``samples`` (n, *shape)."""
        weights = reference.precise.modes()
        assert weights is not None  # skip() has seen to it
        shares = reference.precise.responsibilities(samples).double()
        excess = shares.mean(0) - weights.to(shares)
        influence = shares @ excess.sign() / 2
        n = len(samples)
        return Estimate(float(excess.abs().sum() / 2), float(influence.std()) / math.sqrt(n), n - 1)
