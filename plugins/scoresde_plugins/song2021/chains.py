r"""The published discrete chains: SMLD for VE, DDPM for VP. That of sub-VP is its ``discretize``.

SMLD and DDPM are tables over N noise scales (arXiv:2011.13456, Eq. 8 and 10). The published sampler visits N evenly
spaced times from 1 to t_min, but at the k-th of them, k = 0 .. N-1, it reads the table at 1 - k/(N-1), not at the time
itself. The chains here read it there too, so that the published numbers come out. On any other grid there is no
published chain, and an SDE takes its own transitions between the grid's times.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor
from scoresde_core import SDE, Transition

ChainName = Literal["published", "exact"]
CHAIN_HELP = "discrete chain: the published table, or the exact transitions between the grid's times"


def evenly_spaced(times: Tensor) -> bool:
    """Whether ``times`` (N + 1,) are the published ones: evenly spaced from 1 to the last but one, then 0."""
    if float(times[0]) != 1 or float(times[-1]) != 0:
        return False
    spacing = times[:-1].diff()
    return torch.allclose(spacing, spacing.mean().expand_as(spacing), rtol=1e-6, atol=1e-12)


class TabulatedSDE(SDE):
    """An SDE with a published table, used on the published grid unless ``chain`` is "exact".

    Its ``discrete_level`` is the table's entry, also with ``chain`` "exact": networks of N scales are trained at these.
    """

    chain: ChainName

    @abstractmethod
    def published(self, steps: int) -> Transition | None:
        """The chain of the table with ``steps`` entries, at least two, largest noise first; None if there is none."""

    def transition(self, times: Tensor) -> Transition:
        steps = len(times) - 1
        on_grid = self.chain == "published" and steps > 1 and evenly_spaced(times)
        return (self.published(steps) if on_grid else None) or SDE.transition(self, times)

    def discretize(self, times: Tensor) -> Transition:
        return self.transition(times)
