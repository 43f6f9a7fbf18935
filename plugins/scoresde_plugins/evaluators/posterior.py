r"""Metrics of samples given y against the exact posterior of a Gaussian or a mixture.

The samples are K sets of N, each given one observation. A number is found for every set, from x (N, D), the
posterior's mean m, covariance C and N exact draws, all in float64; a metric is its mean over the observations, with
the standard error of the K numbers. The floor is that of other exact draws in place of the samples.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import Better, Estimate, Evaluator, Metric
from scoresde_core.noise import key
from scoresde_run import Evidence
from ..posterior.exact import PosteriorLaw
from ..targets.mixture import MixtureOfFactorAnalysers
from .comparison import mean_of

_RARE, _DIRECTIONS = -27.0, 128
"""Log weight of components that no draw is from, and the number of random directions."""


@attrs.frozen(eq=False)
class Given:
    """One observation: its event, what is known of it (one row), and, if known, the posterior and two sets of draws."""

    event: Tensor
    known: Any
    mean: Tensor = attrs.field(factory=lambda: torch.empty(0))
    covariance: Tensor = attrs.field(factory=lambda: torch.empty(0, 0))
    weights: Tensor = attrs.field(factory=lambda: torch.empty(0))
    draws: Sequence[Tensor] = ()


def given(evidence: Evidence) -> list[Given]:
    """The observations of ``evidence``, with their exact posteriors where there are any; computed once."""
    assert evidence.observed is not None
    return evidence.observed.once("given", lambda: _given(evidence))


def _given(evidence: Evidence) -> list[Given]:
    observed, reference = evidence.observed, evidence.reference
    events = observed.events.to(evidence.samples.device, torch.float64)  # type: ignore[union-attr]
    known = observed.known.to(events)  # type: ignore[union-attr]
    found = [Given(event, known.rows(k, 1)) for k, event in enumerate(events)]
    if no_exact_posterior(evidence) or reference is None:
        return found
    law = PosteriorLaw(reference.precise.as_mixture(), known)  # type: ignore[attr-defined]
    variances = law.variances.clamp_min(1e-12 * float(law.variances.max()))  # 0 where y says all
    noise, size = variances.min() / 2, evidence.count // len(events)
    factors = (law.bases * (variances - noise).sqrt().unsqueeze(1)).mT
    for k, (weights, means) in enumerate(zip(*law.given(known.values), strict=True)):
        kept = weights > _RARE
        parts = weights[kept].exp(), means[kept], factors[kept], noise.expand(means.shape[1])
        one = MixtureOfFactorAnalysers(*parts, reference.shape)
        seeds = [key(evidence.seed, "posterior", k, which) % 2**31 for which in range(2)]
        draws = [one.sample(size, seed).to(events).flatten(1) for seed in seeds]
        found[k] = Given(found[k].event, found[k].known, *one.moments(), weights.exp(), draws)
    return found


def no_exact_posterior(evidence: Evidence) -> str | None:
    """Why there is no exact posterior to compare with, or None."""
    size = math.prod(evidence.samples.shape[1:])
    if not hasattr(evidence.target, "as_mixture"):
        return "the exact posterior needs the law of the events: add --target, a Gaussian or a mixture"
    if evidence.units is not None and not evidence.units.unscaled:
        return "the exact posterior needs a model in data units, and this one scales the data"
    if size > 2048:
        return f"the exact posterior takes events of at most 2048 entries, not {size}"
    many = len(getattr(evidence.observed and evidence.observed.known, "known", ())) > 1
    return "the exact posterior takes one mask for all observations: choose one that is not random" if many else None


class PosteriorMetric(Evaluator):
    """Base class: give ``metrics``, their directions and units, and ``measure``, their numbers for one observation."""

    needs: ClassVar[frozenset[str]] = frozenset({"observed"})
    metrics: ClassVar[Mapping[str, tuple[Better, str]]]
    smallest: ClassVar[int] = 4  # samples of an observation
    exact: ClassVar[bool] = True  # whether it needs the posterior, and not for its floor alone

    def skip(self, evidence: Evidence) -> str | None:
        if evidence.observed is None:
            return f"{type(self).__name__} judges samples given y: add a --condition"
        count = len(evidence.observed.events)
        if count < 2 or evidence.count < self.smallest * count:
            wanted = f"2 observations and {self.smallest} samples of each, or more"
            return f"{type(self).__name__} needs {wanted}, got {count} and {evidence.count // count}"
        return no_exact_posterior(evidence) if self.exact else None

    @abstractmethod
    def measure(self, x: Tensor, one: Given, evidence: Evidence) -> Sequence[Any]:
        """The numbers of ``metrics`` of finite samples ``x`` (N, D) of one observation."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        reason, observed = self.skip(evidence), evidence.observed
        if reason or observed is None:
            raise ValueError(reason)
        found = given(evidence)
        x = evidence.gathered().double().flatten(1)
        x = x.reshape(len(found), -1, x.shape[1])
        values, floors = self._over(x, found, evidence), list[Estimate | None]([None] * len(self.metrics))
        if found[0].draws:
            exact = torch.stack([one.draws[1] for one in found])
            floors = [*observed.once((self, "floor"), lambda: self._over(exact, found, evidence))]
        named = zip(self.metrics.items(), values, floors, strict=False)
        return [
            attrs.evolve(self.metric(name, value, floor), better=better, unit=unit)
            for (name, (better, unit)), value, floor in named
        ]

    def _over(self, x: Tensor, found: Sequence[Given], evidence: Evidence) -> list[Estimate]:
        sets = zip(x, found, strict=True)
        numbers = [[float(number) for number in self.measure(each, one, evidence)] for each, one in sets]
        lost = 0.0 if bool(x.isfinite().all()) else math.nan
        return [mean_of(column + lost) for column in torch.tensor(numbers, dtype=torch.float64).T]


@attrs.frozen
class PosteriorMoments(PosteriorMetric):
    r"""Errors of the samples' mean and covariance, without what chance gives; best at 0. With sample moments m', C':

    mmse_gap             (|m' - m|^2 - tr C' / N) / tr C
    covariance_error     <C'_1 - C, C'_2 - C> / |C|^2, with those of two halves (Frobenius)
    excess_variance      tr C' / tr C - 1: below 0 samples are too narrow
    """

    metrics: ClassVar = dict.fromkeys(("mmse_gap", "covariance_error", "excess_variance"), ("zero", ""))

    def measure(self, x: Tensor, one: Given, evidence: Evidence) -> Sequence[Any]:
        own, total = x.var(0).sum(), one.covariance.trace()
        gap = ((x.mean(0) - one.mean).square().sum() - own / len(x)) / total
        first, second = (half.T.cov() - one.covariance for half in x.tensor_split(2))
        return gap, (first * second).sum() / one.covariance.square().sum(), own / total - 1


@attrs.frozen
class PosteriorCoverage(PosteriorMetric):
    r"""Calibration of each entry, by exact draws, whose rank r among N samples is uniform on 0 .. N; best at 0.

        coverage_50, coverage_90    share of draws in the central interval of the samples, less 0.5 or 0.9
        rank_variance               12 (r - N / 2)^2 / (N (N + 2)) - 1: above 0 samples are too narrow, or elsewhere

    Intervals end between order statistics, at p (N + 1). Entries that y determines are left out (Talts et al. 2018,
    arXiv:1804.06788).
    """

    metrics: ClassVar = dict.fromkeys(("coverage_50", "coverage_90", "rank_variance"), ("zero", ""))
    smallest: ClassVar[int] = 20

    def measure(self, x: Tensor, one: Given, evidence: Evidence) -> Sequence[Any]:
        n, variance = len(x), one.covariance.diagonal()
        free = variance > 1e-9 * variance.max()
        x, draws = x[:, free].T.contiguous().sort(1)[0], one.draws[0][:, free].T.contiguous()

        def inside(share: float) -> Tensor:
            ends = (((n + 1) * (0.5 + side * share / 2) - 1) / (n - 1) for side in (-1, 1))
            low, high = (x.quantile(end, 1, keepdim=True) for end in ends)
            return ((draws >= low) & (draws <= high)).double().mean() - share

        ranks = torch.searchsorted(x, draws).double()
        return inside(0.5), inside(0.9), (12 * (ranks - n / 2).square() / (n * (n + 2))).mean() - 1


@attrs.frozen
class PosteriorDistance(PosteriorMetric):
    """Sliced W1 to exact draws, in standard deviations of the posterior, and total variation of component weights.

    posterior_distance is the mean over random directions; posterior_modes, of mixtures, is
    1/2 sum_k |mean_i r_k(x_i) - w_k| with the weights w given y, of which r is free: x says all about k.
    """

    metrics: ClassVar = {"posterior_distance": ("lower", "posterior std"), "posterior_modes": ("lower", "")}

    def measure(self, x: Tensor, one: Given, evidence: Evidence) -> Sequence[Any]:
        assert evidence.reference is not None
        generator = torch.Generator().manual_seed(key(evidence.seed, "directions") % 2**31)
        directions = torch.randn(x.shape[1], _DIRECTIONS, generator=generator, dtype=torch.float64).to(x)
        directions /= directions.norm(dim=0) * (one.covariance.trace() / x.shape[1]).sqrt()
        distance = ((x @ directions).sort(0)[0] - (one.draws[0] @ directions).sort(0)[0]).abs().mean()
        if len(one.weights) < 2:
            return (distance,)
        shares = evidence.reference.precise.responsibilities(x.reshape(-1, *one.event.shape)).mean(0)
        return distance, (shares - one.weights).abs().sum() / 2


@attrs.frozen
class Residual(PosteriorMetric):
    """Mean square of y - A x over the variance of the noise of y, less 1: 0 for exact draws, on average over y."""

    metrics: ClassVar = {"residual": ("zero", "")}
    smallest: ClassVar[int] = 1
    exact: ClassVar[bool] = False

    def skip(self, evidence: Evidence) -> str | None:
        if getattr(evidence.observed and evidence.observed.known, "noise", 0) is None:
            return "residual is in units of the noise of y, and there is none"
        return super().skip(evidence)

    def measure(self, x: Tensor, one: Given, evidence: Evidence) -> Sequence[Any]:
        known = one.known
        off = known.values - known.seen(evidence.seen(x.reshape(-1, *one.event.shape)).double())
        return (torch.where(known.known, off / known.noise, 0.0).square().sum() / len(x) / known.known.sum() - 1,)
