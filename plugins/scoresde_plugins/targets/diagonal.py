r"""Mixtures under a process with one alpha and sigma an entry, in any orthonormal basis Q: c = a Q x_0 + sigma eps.

With N = Q^T diag(sigma / a)^2 Q, the state Q^T (c / a) is x_0 with noise of covariance N, so component k is

    N(mu_k, W_k W_k^T + S),   S = diag(psi) + N = L L^T

and z = L^-1 Q^T (c / a) has the components N(L^-1 mu_k, L^-1 W_k (L^-1 W_k)^T + I): a mixture of factor analysers
again, without noise of its own. One Cholesky factor a level, and two products more than for one coefficient a call.
"""

from collections import OrderedDict

import torch
from torch import Tensor
from scoresde_core.frame import Basis, rotate
from scoresde_core.sde import Level
from .mixture import MixtureOfFactorAnalysers

_CACHED_LEVELS = 8


class DiagonalLaw:
    """A mixture at diagonal levels in one basis; ``score`` takes states ``c`` in that basis."""

    def __init__(self, mixture: MixtureOfFactorAnalysers, basis: Basis) -> None:
        self.mixture, self.basis = mixture, basis
        self._levels: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor, MixtureOfFactorAnalysers]] = OrderedDict()

    def score(self, c: Tensor, level: Level, classes: Tensor | None = None) -> Tensor:
        """The score at ``c`` (B, *shape), in the basis; ``level`` has one time for all rows."""
        a, white, law = self._at(c, level)
        score = law.score(self._z(c, a, white), classes=classes).flatten(1)
        spread = rotate((score * white if white.ndim == 1 else score @ white).reshape(c.shape), self.basis)
        return spread / a.to(c.dtype)

    def _z(self, c: Tensor, a: Tensor, white: Tensor) -> Tensor:
        x = rotate(c / a.to(c.dtype), self.basis, inverse=True).flatten(1)
        return (x * white if white.ndim == 1 else x @ white.T).reshape(c.shape)

    def _at(self, c: Tensor, level: Level) -> tuple[Tensor, Tensor, MixtureOfFactorAnalysers]:
        """a (1, *shape), L^-1 as (D,) or (D, D), and the mixture of z."""
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64, device=c.device) for v in (level.alpha, level.sigma))
        if (alpha.ndim == c.ndim and len(alpha) > 1) or (isinstance(level.t, Tensor) and level.t.numel() > 1):
            raise ValueError("an exact law with one coefficient an entry needs one time for all rows")
        key = (float(level.t), c.dtype)
        if key not in self._levels:
            self._levels[key] = self._whitened(alpha, sigma, c)
            if len(self._levels) > _CACHED_LEVELS:
                self._levels.popitem(last=False)
        return self._levels[key]

    def _whitened(self, alpha: Tensor, sigma: Tensor, c: Tensor) -> tuple[Tensor, Tensor, MixtureOfFactorAnalysers]:
        law, dim = self.mixture, len(self.mixture.noise)
        variance = (sigma / alpha).square().expand(1, *c.shape[1:])
        if any(matrix is not None for matrix in self.basis):
            rows = rotate(torch.eye(dim, dtype=torch.float64, device=c.device).reshape(dim, *c.shape[1:]), self.basis)
            spread = (rows * variance).flatten(1) @ rows.flatten(1).T
            lower = torch.linalg.cholesky(law.noise.diag() + spread)
            eye = torch.eye(dim, dtype=torch.float64, device=c.device)
            white = torch.linalg.solve_triangular(lower, eye, upper=False)
            means, factors = law.means @ white.T, law.factors @ white.T
        else:
            white = (law.noise + variance.flatten()).rsqrt()
            means, factors = law.means * white, law.factors * white
        found = MixtureOfFactorAnalysers(
            law.weights, means, factors, torch.ones_like(law.noise), law.shape, dtype=c.dtype
        )
        return alpha.expand(1, *c.shape[1:]), white.to(c.dtype), found
