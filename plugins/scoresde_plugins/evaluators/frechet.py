"""Frechet distance on features (Heusel et al. 2017, arXiv:1706.08500; FID with InceptionV3's).

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (R S1 R)^1/2,        R = S2^1/2

The squared Wasserstein distance of the Gaussians with the features' moments. R S1 R is symmetric, so the last term is
the sum of the roots of its eigenvalues: real, and non-negative up to rounding, where the root of the product S1 S2 by
a Schur form is complex and slower. (``moments.gaussian_w2`` keeps the digits of small distances, in twice the time.)

It is biased: d^2 of n samples exceeds that of infinitely many by about c / n, with a c that depends on the model, so
the order of models can change with n. A line through d^2 against 1 / n, over disjoint ranges of the samples, gives the
value at 1 / n = 0 (Chong & Forsyth 2020, arXiv:1911.07023).
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Estimate, Metric, param
from scoresde_core.noise import key
from scoresde_run import EventSet, Evidence, Features
from .feature_metric import FeatureMetric, samples
from .moments import root, squared_w2
from .statistics_file import FeatureMoments, Statistics, merged

NOTABLE = 0.1  # the share of the value from which the bias causes a warning
FEWEST_A_FEATURE = 2
"""With fewer samples per range than this times the number of features, the bias is not linear in 1 / n."""


class Centre:
    """A Gaussian to which distances are taken; the root of its covariance is computed once."""

    def __init__(self, moments: FeatureMoments, without: Sequence[FeatureMoments] = ()) -> None:
        self.mean, self.root = moments.mean.double(), root(moments.covariance.double())
        self.without = [Centre(part) for part in without]
        """Where it is of random draws: the same without each range of them in turn."""

    def distance(self, moments: FeatureMoments) -> float:
        """Return d^2 to the Gaussian with these moments, in float64; covariances may be singular."""
        mean, covariance = (part.double().to(self.root.device) for part in (moments.mean, moments.covariance))
        return squared_w2(mean - self.mean, covariance, self.root)


@attrs.frozen
class Extrapolation:
    """d^2 against the number of samples, for all samples, and extrapolated."""

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    finite: Estimate
    infinity: Estimate


def extrapolate(parts: Sequence[FeatureMoments], centre: Centre) -> Extrapolation:
    """Return d^2 for 1, 2, ... of ``parts`` together, as means over disjoint groups of parts, and its line in 1 / n."""
    k, whole = len(parts), sum(part.count or 0 for part in parts)
    values, forms = [], []
    for size in range(1, k + 1):
        groups = [list(range(start, start + size)) for start in range(0, k - size + 1, size)]
        found = [centre.distance(merged([parts[i] for i in group])) for group in groups]
        values.append(sum(found) / len(found))
        forms.append(_form(groups, k))
    sizes = [round(whole * size / k) for size in range(1, k + 1)]
    line = torch.tensor([[1.0, 1 / n] for n in sizes], dtype=torch.float64)
    # Both columns are of order 1.
    line[:, 1] *= whole
    weights = torch.linalg.pinv(line)[0]
    infinity = float(weights @ torch.tensor(values, dtype=torch.float64))
    asked = torch.stack([forms[-1], torch.tensordot(weights, torch.stack(forms), 1)])
    errors = _errors(parts, centre, (values[-1], (values[0] - values[-1]) / (k - 1)), asked)
    finite, endless = (Estimate(v, e, k - 1) for v, e in zip((values[-1], infinity), errors, strict=True))
    return Extrapolation(tuple(sizes), tuple(values), finite, endless)


def _form(groups: Sequence[Sequence[int]], k: int) -> Tensor:
    """Return b and M side by side, (k, 1 + k), of the mean distance of ``groups`` of k parts: see :func:`_errors`."""
    shares = torch.zeros(len(groups), k, dtype=torch.float64)
    for share, group in zip(shares, groups, strict=True):
        share[list(group)] = 1 / len(group)
    return torch.cat([shares.mean(0)[:, None], shares.T @ shares / len(groups)], 1)


def _errors(parts: Sequence[FeatureMoments], centre: Centre, whole: tuple[float, float], asked: Tensor) -> list[float]:
    """Return the standard errors of the ``asked`` forms; ``whole`` is the value of all parts and its bias.

    In the deviations z_i of the parts, a distance is the sum of a linear part b.z and a quadratic one z'Mz, and so are
    means of distances and intercepts of lines. Their variance is l |b|^2 + q |M|^2. So is that of the distances without
    each part in turn (of a random centre as well), which determines l and q. All of it is quadratic where the value is
    bias alone, as with samples as good as the truth, and all linear where the bias is negligible.
    """
    k, (value, bias) = len(parts), whole
    others = [[i for i in range(k) if i != left_out] for left_out in range(k)]
    centres = centre.without or [centre] * k
    found = [to.distance(merged([parts[i] for i in some])) for to, some in zip(centres, others, strict=True)]
    scatter = torch.stack([_form([some], k) for some in others]).var(0)
    bias = min(max(bias, 0.0), value)
    quadratic = 2 * bias / (value + bias) if value > 0 else 0.0
    shares = torch.tensor([1 - quadratic, quadratic], dtype=torch.float64)
    variance = float(torch.tensor(found, dtype=torch.float64).var())
    squares = torch.cat([asked.square(), scatter[None]]).sum(1)
    sizes = torch.stack([squares[:, 0], squares[:, 1:].sum(1)], 1)
    return (variance * sizes[:-1] @ (shares / sizes[-1])).sqrt().tolist()


@attrs.frozen
class FrechetDistance(FeatureMetric):
    """d^2 of the samples' features from the reference's, and its extrapolation to infinitely many samples.

    With ``features=inception`` it is FID, with ``dinov2`` FD-DINOv2 (arXiv:2306.04675). The reference is the whole
    split of a data set, a file of moments, or ``draws`` exact draws. Features are summed as they are extracted, by
    ranges of the samples, and need not fit into memory; processes add their sums.
    """

    word: ClassVar[str] = "frechet"
    equal: ClassVar[bool] = False

    ranges: int = param(5, "disjoint ranges of the samples, for the error and the extrapolation", ge(3))
    draws: int = param(10_000, "exact draws, where the reference is a target", ge(2))

    @property
    def fewest(self) -> int:
        return 2 * self.ranges

    def judge(self, evidence: Evidence) -> list[Metric]:
        centre, name = self._centre(evidence), f"{self.name}_infinity"
        floor = self.of_floor(
            evidence, lambda events: extrapolate(self._parts(self.seen(events, evidence), events.size), centre)
        )
        low = (None, None) if floor is None else (floor.finite, floor.infinity)
        if not self.finite(evidence):
            unknown = Estimate(math.nan, math.nan)
            return [self.metric(self.name, unknown, low[0]), self.metric(name, unknown, low[1])]
        processes = evidence.processes
        place = 0 if processes is None else sum(processes.exchange(len(evidence.samples))[: processes.rank])
        own = self._parts(self.seen(samples(evidence), evidence), evidence.count, place)
        parts = [part.over(processes) for part in own]
        width, a_range = len(parts[0].mean), evidence.count // self.ranges
        self.check_width(width, len(centre.mean))
        found = extrapolate(parts, centre)
        details = self.protocol(evidence, dimensions=width)
        details["curve"] = [list(pair) for pair in zip(found.sizes, found.values, strict=True)]
        if "target" in details["reference"]:
            details["reference"]["draws"] = self.draws
        plain, bias = dict(details), found.finite.value - found.infinity.value
        if bias > NOTABLE * abs(found.finite.value):
            high = f"with {evidence.count} samples of {width} features {self.name} is about {bias:.3g} too high"
            details["warning"] = f"{high}: draw more, or compare {name}"
        if a_range < FEWEST_A_FEATURE * width:
            plain["warning"] = f"{a_range} samples per range are too few for {width} features: {name} is unreliable"
        finite = self.metric(self.name, found.finite, low[0], **details)
        return [finite, self.metric(name, found.infinity, low[1], **plain)]

    def _parts(self, batches: Iterable[Features], total: int, start: int = 0) -> list[FeatureMoments]:
        """Return the moments of each range of ``total`` events; these batches start at event ``start``."""
        parts: list[FeatureMoments] = []
        for batch in batches:
            pooled = batch.pooled
            parts = parts or [FeatureMoments.none(pooled.shape[1], pooled.device) for _ in range(self.ranges)]
            ranges = torch.arange(start, start + len(pooled), device=pooled.device) * self.ranges // total
            for number in torch.unique(ranges).tolist():
                parts[number] = parts[number].merge(FeatureMoments.of(pooled[ranges == number]))
            start += len(pooled)
        return parts

    def truth(self, evidence: Evidence) -> EventSet | None:
        found, reference = super().truth(evidence), evidence.reference
        if found is None or found.whole is not None or reference is None or reference.target is None:
            return found and (found.whole or found)
        load = partial(reference.target.sample, self.draws, key(reference.seed, "moments") % 2**31)
        return EventSet(("moments", repr(reference.target), self.draws, reference.seed), self.draws, load, reference)

    def _centre(self, evidence: Evidence) -> Centre:
        truth, device = self.truth(evidence), evidence.samples.device
        if truth is None:
            return _centre_of_file(self._file(), str(device))
        own = truth.share(evidence.processes)

        def compute() -> Centre:
            batches = self.seen(own, evidence, keep=False)
            if self.reference is not None:  # the same for all comparisons, so without error
                return Centre(merged([FeatureMoments.of(batch.pooled) for batch in batches]).over(evidence.processes))
            parts = [part.over(evidence.processes) for part in self._parts(batches, own.size)]
            return Centre(merged(parts), [merged([part for part in parts if part is not one]) for one in parts])

        return truth.once((self.extraction, self.ranges, own, "centre"), compute)


@lru_cache(maxsize=4)
def _centre_of_file(file: Statistics, device: str) -> Centre:
    moments = file.moments
    return Centre(attrs.evolve(moments, mean=moments.mean.to(device), m2=moments.m2.to(device)))
