r"""The published discrete chains: SMLD for VE, DDPM for VP. That of sub-VP is its ``discretize``.

SMLD and DDPM are tables over N noise scales (arXiv:2011.13456, Eq. 8 and 10). The published sampler visits N evenly
spaced times from 1 to t_min, but at the k-th of them, k = 0 .. N-1, it reads the table at 1 - k/(N-1), not at the time
itself. The chains here read it there too, so that the published numbers come out. On any other grid there is no
published chain, and an SDE takes its own transitions between the grid's times.
"""

from abc import abstractmethod
from functools import lru_cache
from typing import Literal

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Level, Transition

ChainName = Literal["published", "exact"]
CHAIN_HELP = "discrete chain: the published table, or the exact transitions between the grid's times"


def evenly_spaced(times: Tensor) -> bool:
    """Whether ``times`` (N + 1,) are the published ones: evenly spaced from 1 to the last but one, then 0."""
    if float(times[0]) != 1 or float(times[-1]) != 0:
        return False
    spacing = times[:-1].diff()
    return torch.allclose(spacing, spacing.mean().expand_as(spacing), rtol=1e-6, atol=1e-12)


@attrs.frozen
class SMLDChain:
    """SMLD (Eq. 8 and 46): variance sigma_i^2 - sigma_{i-1}^2, with sigma_{-1} = 0 for clean data."""

    sde: SDE

    def transition(self, times: Tensor) -> Transition | None:
        """The table at i/(N-1), largest first, with the posterior's noise on the way back; from two steps on."""
        steps = len(times) - 1
        if steps < 2 or not evenly_spaced(times):
            return None
        entries = torch.linspace(1, 0, steps, dtype=times.dtype)
        sigma = torch.cat([self.sde.sigma(entries), entries.new_zeros(1)])
        std = ((sigma[:-1] - sigma[1:]) * (sigma[:-1] + sigma[1:])).sqrt()
        return Transition(torch.ones_like(std), std, std * sigma[1:] / sigma[:-1])

    def level(self, t: Tensor, n: int) -> Level:
        """Entry round((n - 1) t) of the table of ``n`` noise scales."""
        return self.sde.level((t * (n - 1)).round() / (n - 1))


@attrs.frozen
class DDPMChain:
    """DDPM (Eq. 10): scale sqrt(1 - beta_i), variance beta_i both ways (the larger of Ho et al.'s two choices).

    Up to N = beta_max steps there is no such chain: variances would exceed one (NaN in the published code).
    """

    beta_min: float
    beta_max: float

    def betas(self, n: int) -> Tensor:
        """beta_i = beta(i / (n - 1)) / n for i = 0 .. n-1, smallest first."""
        return (self.beta_min + torch.linspace(0, 1, n, dtype=torch.float64) * (self.beta_max - self.beta_min)) / n

    def transition(self, times: Tensor) -> Transition | None:
        """The table, largest beta first."""
        steps = len(times) - 1
        if steps < 2 or steps <= self.beta_max or not evenly_spaced(times):
            return None
        beta = self.betas(steps).flip(0)
        return Transition((1 - beta).sqrt(), beta.sqrt())

    def level(self, t: Tensor, n: int) -> Level:
        """Entry floor((n - 1) t) of the table: alpha_bar_i is the product of 1 - beta_j up to i."""
        log_signal = _log_signal(self, n, t.device, t.dtype)
        # On the published grid t (n - 1) is an integer up to rounding, so the floor is taken slightly above it.
        entry = log_signal[(t * (n - 1) + 1e-6).long().clamp(0, n - 1)]
        return Level(t, torch.exp(0.5 * entry), torch.sqrt(-torch.expm1(entry)))


class TabulatedSDE(SDE):
    """An SDE with a published table, used on the published grid unless ``chain`` is "exact"."""

    chain: ChainName

    @property
    @abstractmethod
    def table(self) -> SMLDChain | DDPMChain:
        """The published table."""

    def transition(self, times: Tensor) -> Transition:
        published = self.table.transition(times) if self.chain == "published" else None
        return published or SDE.transition(self, times)

    def discretize(self, times: Tensor) -> Transition:
        return self.transition(times)

    def discrete_level(self, t: Tensor, n: int) -> Level:
        """The table's entry at ``t``, also with ``chain`` "exact": networks of N scales are trained at the table's."""
        return self.table.level(t, n)


@lru_cache(maxsize=8)
def _log_signal(chain: DDPMChain, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """log alpha_bar_i, cached: training reads it at every step, and a copy to the device would block."""
    return torch.log1p(-chain.betas(n)).cumsum(0).to(device=device, dtype=dtype)
