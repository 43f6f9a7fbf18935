r"""The posterior of a Gaussian mixture given y, in closed form: a mixture again, the truth for every method.

Given coefficients c = K x_0 + n z, K with orthonormal rows, component k of sum_k w_k N(m_k, C_k) has (Bishop 2006, Eq.
2.113-2.117), with S_k = K C_k K^T + diag(n^2) and G_k = C_k K^T S_k^{-1},

    weight w_k N(c; K m_k, S_k),    mean m_k + G_k (c - K m_k),    covariance C_k - G_k K C_k = U_k diag(v_k) U_k^T

No covariance depends on c, and those of x_t are U_k diag(alpha^2 v_k + sigma^2) U_k^T: one decomposition serves all.
"""

import math
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import ScoreModel, Target, param
from scoresde_core.frame import rotate
from scoresde_core.shapes import per_row
from scoresde_run.sampling.condition import Observation
from ..conditions.known import KnownCoefficients
from ..targets.mixture import MixtureOfFactorAnalysers, bounded, mixed
from .method import GuidedScore, Look, Posterior, PosteriorMethod


class PosteriorLaw:
    """A mixture's law given coefficients known as in ``observed``; it has ``bases`` U (K, D, D) and ``variances`` v."""

    def __init__(self, target: MixtureOfFactorAnalysers, observed: KnownCoefficients) -> None:
        values, observed, dim = observed.values, observed.to(target.noise), len(target.noise)
        self.known, eye = observed.known.flatten(), torch.eye(dim).to(target.noise)
        rows = rotate(eye.reshape(dim, *values.shape[1:]), observed.basis).reshape(dim, dim).T[self.known]
        noise = 0.0 if observed.noise is None else observed.noise.flatten()[self.known].square().diag()
        prior = target.factors.mT @ target.factors + target.noise.diag()
        root = torch.linalg.cholesky(rows @ prior @ rows.T + noise)
        half = torch.linalg.solve_triangular(root, rows @ prior, upper=False)
        spread, bases = torch.linalg.eigh(prior - half.mT @ half)
        constant = target.weights.log() - root.diagonal(dim1=1, dim2=2).log().sum(1)
        parts = root, half, spread.clamp_min(0), bases, constant, target.means, target.means @ rows.T
        self.root, self.half, self.variances, self.bases, *self._prior = (part.to(values) for part in parts)

    def given(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The log weights (n, K) and means (n, K, D) given ``values`` (n, *view) of the coefficients."""
        constant, means, expected = self._prior
        off = (values.flatten(1)[:, self.known].unsqueeze(1) - expected).movedim(0, 2)
        white = torch.linalg.solve_triangular(self.root, off, upper=False)
        weights = (constant - 0.5 * white.square().sum(1).T).log_softmax(1)
        return weights, means + (self.half.mT @ white).movedim(2, 0)

    def score(self, x: Tensor, level: Any, values: Tensor) -> Tensor:
        """grad log p(x_t | y) at one event ``x`` (n, ...) an observation."""
        (weights, means), flat = self.given(values), x.flatten(1)
        alpha, sigma = (per_row(value, flat).reshape(-1, 1, 1) for value in (level.alpha, level.sigma))
        turned = torch.einsum("nkd,kde->nke", flat.unsqueeze(1) - alpha * means, self.bases)
        variance = alpha**2 * self.variances + sigma**2
        white = turned / variance
        r = bounded(weights - 0.5 * (turned * white + variance.log()).sum(2), 1).softmax(1)
        return -torch.einsum("nke,kde->nd", r.unsqueeze(2) * white, self.bases).reshape(x.shape)

    def shift(self, look: Look) -> Tensor:
        """E[x_0 | x_t, y] - D, from the score."""
        change = self.score(look.x, look.level, look.known.values) - look.score
        return change * (look.level.sigma**2 / look.level.alpha)


@attrs.frozen
class ExactPosterior(PosteriorMethod):
    """The posterior's own score, of an exact ``target`` with whose score the model samples."""

    example = {"target": "gaussian[shape=[2]]"}  # noqa: RUF012  # for the conformance suite
    differentiates = False
    target: Target = param(help="the law of the events: gaussian, mixture2d, mnist_mfa, ...", check=mixed, kw_only=True)

    def skip(self, shape: tuple[int, ...]) -> str | None:
        if (own := self.target.shape) != shape:
            return f"the target has events of shape {list(own)}, not {list(shape)}: take that of the model"
        if math.prod(shape) > 2048:
            return f"the exact posterior takes events of at most 2048 entries, not {math.prod(shape)}: take mmps"
        return super().skip(shape)

    def given(self, known: Observation) -> Observation:
        if len(getattr(known, "known", ())) > 1:
            raise ValueError("the exact posterior takes one mask for all samples: choose a mask that is not random")
        return super().given(known)

    def guide(self, model: ScoreModel, observed: Posterior) -> ScoreModel:
        mixture = self.target.to(observed.known.values.device).as_mixture()  # type: ignore[attr-defined]
        return GuidedScore(model, observed, PosteriorLaw(mixture, observed.known).shift)
