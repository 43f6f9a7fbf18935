"""The exact law of a mixture's unknown coefficients given known ones: the truth for controllable generation.

With c = Q x, Q orthonormal, component k of a mixture is N(m, C) in coefficients, and for known c_a = y

    weight        w_k N(y; m_a, C_aa), normalised
    mean          m_u + C_ua C_aa^-1 (y - m_a)
    covariance    C_uu - C_ua C_aa^-1 C_au

so the conditional law is a mixture again, of the unknown coefficients only.
"""

import attrs
import torch
from torch import Tensor
from scoresde_core.frame import rotate
from scoresde_plugins.conditions.known import KnownCoefficients
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers


@attrs.frozen(eq=False)
class Conditional:
    """The law of a mixture's events given one observation; float64."""

    law: MixtureOfFactorAnalysers = attrs.field()
    """The law of the unknown coefficients (d,), in row-major order, with exact weights, means and covariances."""
    observed: KnownCoefficients = attrs.field(repr=False)

    def unknown(self, x: Tensor) -> Tensor:
        """Return the unknown coefficients (n, d) of events (n, *shape)."""
        return rotate(x.double(), self.observed.basis).flatten(1)[:, self._free]

    def events(self, unknown: Tensor) -> Tensor:
        """Return events (n, *shape) with unknown coefficients (n, d) and the observed ones."""
        values = self.observed.values.double()
        coefficients = values.flatten(1).repeat(len(unknown), 1)
        coefficients[:, self._free] = unknown.double()
        return rotate(coefficients.reshape(-1, *values.shape[1:]), self.observed.basis, inverse=True)

    @property
    def _free(self) -> Tensor:
        return ~self.observed.known[0].flatten()


def given(target: MixtureOfFactorAnalysers, observed: KnownCoefficients) -> Conditional:
    """Return the law of ``target`` given the first event of ``observed``; dense, for D up to about 1,000."""
    observed = observed.rows(0, 1)
    known = observed.known[0].flatten()
    y = observed.values.double().flatten()[known]
    dim, shape = len(target.noise), target.shape
    joint, means, covariances = [], [], []
    for weight, mean, factors in zip(target.weights, target.means, target.factors, strict=True):
        rows = torch.cat([mean.unsqueeze(0), factors, target.noise.sqrt().diag()]).reshape(-1, *shape)
        turned = rotate(rows, observed.basis).reshape(-1, dim)
        centre, root = turned[0], turned[1:]
        seen, hidden = root[:, known], root[:, ~known]
        lower = torch.linalg.cholesky(seen.T @ seen)
        white = torch.linalg.solve_triangular(lower, (y - centre[known]).unsqueeze(1), upper=False)
        joint.append(weight.log() - 0.5 * white.square().sum() - lower.diagonal().log().sum())
        gain = torch.cholesky_solve(seen.T @ hidden, lower).T
        means.append(centre[~known] + gain @ (y - centre[known]))
        covariances.append(hidden.T @ hidden - gain @ (seen.T @ hidden))
    weights = torch.stack(joint).softmax(0).clamp_min(torch.finfo(torch.float64).tiny)
    return Conditional(_mixture(weights, torch.stack(means), torch.stack(covariances)), observed)


def _mixture(weights: Tensor, means: Tensor, covariances: Tensor) -> MixtureOfFactorAnalysers:
    """Return a Gaussian mixture with any covariances (K, d, d); its noise is half of the smallest eigenvalue of all."""
    noise = 0.5 * torch.linalg.eigvalsh(covariances).min()
    dim = means.shape[1]
    factors = torch.linalg.cholesky(covariances - noise * torch.eye(dim, dtype=torch.float64)).mT
    return MixtureOfFactorAnalysers(weights, means, factors, noise.expand(dim), (dim,))
