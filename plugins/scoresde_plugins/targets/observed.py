r"""A target with an observation of each event, y = scale x_0 + noise n, and its law given y.

A state c = alpha x_0 + sigma eps and y are two observations of x_0 with independent noise. With the precision
p = alpha^2 / sigma^2 + scale^2 / noise^2 they say of x_0 what one does, x = (alpha c / sigma^2 + scale y / noise^2) / p
with noise p^{-1/2}, so the target's own score gives

    E[x_0 | c, y] = x + score(x; 1, p^{-1/2}) / p,       score(c | y) = (alpha E[x_0 | c, y] - c) / sigma^2

An event and its own observation are a draw of the posterior: samples given such observations follow the target.
"""

from __future__ import annotations

from typing import Any

import attrs
from attrs.validators import gt
from torch import Tensor
from scoresde_core import Level, Noise, Target, param
from scoresde_core.noise import key
from scoresde_core.sde import GaussianPrior
from .mixture import MixtureOfFactorAnalysers, MixtureTarget, mixed
from .mixture2d import Mixture2DTarget


@attrs.frozen
class ObservedTarget(MixtureTarget):
    """A mixture whose events are observed with Gaussian noise: what processes that move to an observation y need."""

    of: Target = param(attrs.Factory(Mixture2DTarget), "the law of the events: a Gaussian, or mixture of them", mixed)
    noise: float = param(0.5, "standard deviation of the noise of y", gt(0))
    scale: float = param(1.0, "factor of the event in y", gt(0))

    def build(self) -> MixtureOfFactorAnalysers:
        return self.of.as_mixture()  # type: ignore[attr-defined,no-any-return]

    @property
    def images(self) -> bool:
        return self.of.images

    def known(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Observations ``y`` (n, *shape) of ``n`` events of the target; draws independent of ``sample(n, seed)``."""
        return {"y": self.observe(self.sample(n, key(seed, "observed") % 2**31), seed)}

    def observe(self, x: Tensor, seed: int = 0) -> Tensor:
        """An observation of each event of ``x`` (n, *shape)."""
        noise = Noise(seed, self.shape, len(x), dtype=x.dtype).draw("target", "observed")
        return self.scale * x + self.noise * noise

    def given(self, y: Tensor) -> ObservedLaw:
        """The law of the events given observations ``y`` (B, *shape), one a row."""
        return ObservedLaw(self, y)

    def log_posterior(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x | y) of events given one observation a row, (B, *shape) -> (B,)."""
        likelihood = GaussianPrior(self.scale * x, self.noise).log_prob(y)
        density: Tensor = self.log_prob(x) + likelihood - self.log_prob(y, Level(0.0, self.scale, self.noise))
        return density


@attrs.frozen(eq=False)
class ObservedLaw:
    """The law of events given one observation a row."""

    target: ObservedTarget
    y: Tensor

    def score(self, c: Tensor, level: Any, classes: Tensor | None = None) -> Tensor:
        """The score of p(c | y) at ``level``, (B, *shape)."""
        alpha, sigma = level.alpha, level.sigma
        seen, known = alpha / sigma**2, self.target.scale / self.target.noise**2
        precision = alpha * seen + self.target.scale * known
        x = (c * seen + self.y.to(c) * known) / precision
        mean = x + self.target.mixture.score(x, Level(level.t, 1.0, precision**-0.5), classes) / precision
        score: Tensor = (alpha * mean - c) / sigma**2
        return score
