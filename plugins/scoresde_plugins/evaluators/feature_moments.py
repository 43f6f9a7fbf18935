"""Streaming mean and covariance of features, which are never held together in memory.

Each batch is centred by itself and merged (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115):

    n = n_a + n_b,    d = m_b - m_a,    m = m_a + d n_b / n,    M2 = M2_a + M2_b + d d' n_a n_b / n

in float64, so that no large sums are subtracted. Parts may come from different batches, files or processes.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from scoresde_run.machine.processes import Processes


@attrs.frozen(eq=False)
class FeatureMoments:
    """The moments of ``count`` features: their ``mean`` (D,) and sum of centred outer products ``m2`` (D, D), float64.

    ``count=None`` means that the number of features is unknown, as in published files.
    """

    count: int | None
    mean: Tensor
    m2: Tensor
    """With ``count=None``, the covariance."""

    @classmethod
    def of(cls, features: Tensor) -> FeatureMoments:
        """Return the moments of a batch (n, D)."""
        x = features.double()
        mean = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def none(cls, dimensions: int, device: torch.device | str = "cpu") -> FeatureMoments:
        """Return the moments of no features, from which a sum starts."""
        return cls.of(torch.zeros(0, dimensions, dtype=torch.float64, device=device))

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D), M2 / (n - 1)."""
        return self.m2 if self.count is None else self.m2 / (self.count - 1)

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Return the moments of both sets together."""
        if self.count is None or other.count is None:
            raise ValueError("moments of an unknown number of features cannot be merged")
        n = self.count + other.count
        if not n:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / n)
        m2 = self.m2 + other.m2 + torch.outer(step, step) * (self.count * other.count / n)
        return FeatureMoments(n, mean, m2)

    def over(self, processes: Processes | None) -> FeatureMoments:
        """Return the moments of the features of all processes, by two reductions that every process must call."""
        if processes is None or processes.count == 1:
            return self
        if self.count is None:
            raise ValueError("moments of an unknown number of features cannot be merged")
        sums = processes.total(torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])]))
        n = int(sums[-1])
        if not n:
            return self
        mean = sums[:-1] / n
        off = self.mean - mean
        m2 = processes.total(self.m2 + torch.outer(off, off) * self.count)
        return FeatureMoments(n, mean, m2)


def merged(parts: list[FeatureMoments]) -> FeatureMoments:
    """All parts together."""
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total
