"""Sample quality by features: kernel distance, precision and recall, inception score."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Better, Estimate, Metric, UsageError, param
from scoresde_run import EventSet, Evidence
from .comparison import balanced_halves, mean_of, with_error
from .feature_metric import FeatureMetric, TwoSetMetric, samples

FEWEST = 10  # the fewest subsets whose scatter gives a usable error


def polynomial_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased MMD^2 of features ``x`` and ``y``, both (n, D) or (blocks, n, D), with the cubic kernel."""
    n, width = x.shape[-2], x.shape[-1]

    def total(a: Tensor, b: Tensor) -> Tensor:
        return ((a @ b.mT / width + 1) ** 3).sum((-2, -1))

    def diagonal(a: Tensor) -> Tensor:
        return ((a.square().sum(-1) / width + 1) ** 3).sum(-1)

    within = (total(x, x) - diagonal(x) + total(y, y) - diagonal(y)) / (n * (n - 1))
    return within - 2 * total(x, y) / n**2


def by_subsets(x: Tensor, y: Tensor, size: int) -> Estimate:
    """The mean over disjoint subsets of ``size`` rows of both (n, D), and its standard error over the subsets."""
    size = min(size, len(x) // FEWEST)  # the estimate is unbiased at any size
    count = len(x) // size
    blocks = [polynomial_mmd(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]) for i in range(count)]
    return mean_of(torch.stack(blocks))


@attrs.frozen
class KernelDistance(TwoSetMetric):
    """MMD^2 on features (Binkowski et al. 2018, arXiv:1801.01401; KID with InceptionV3's), best at 0.

        MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y),        k(x, y) = (x.y / D + 1)^3

    The unbiased estimate (pairs i != j within a set), as the mean over disjoint subsets, with its standard error over
    them. Unlike Frechet distances its values can be compared between sample sizes, and it needs far fewer samples. A
    cubic kernel compares the first three moments only. The published estimate draws a hundred overlapping subsets and
    quotes their standard deviation, which is not the error of the mean; its expectation is the same. The reference has
    as many events as there are samples.
    """

    word: ClassVar[str] = "kernel"
    better: ClassVar[Better] = "zero"

    subset_size: int = param(1000, "events in a subset; fewer if the samples do not make ten subsets", ge(2))

    @property
    def fewest(self) -> int:
        return 2 * FEWEST

    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        return (by_subsets(samples, truth, self.subset_size),)

    def protocol(self, evidence: Evidence, **more: Any) -> dict[str, Any]:
        return super().protocol(evidence, subset_size=min(self.subset_size, evidence.count // FEWEST), **more)


_ROWS = 1024


def shares(samples: Tensor, truth: Tensor, neighbours: int, choices: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Return precision and recall of the events in each of ``choices``, masks (n,) for both sets."""
    rows = [torch.nonzero(choice).squeeze(1).to(samples.device) for choice in choices]
    own, true = (radii(points, neighbours, rows) for points in (samples, truth))
    precise = [0] * len(rows)
    recalled = [torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device) for chosen in rows]
    for index, here, between in _between(samples, truth, rows):
        precise[index] += int((between <= true[index]).any(1).sum())
        recalled[index] |= (between <= own[index][here, None]).any(0)
    pairs = zip(precise, recalled, strict=True)
    return [(inside / len(covering), float(covering.double().mean())) for inside, covering in pairs]


def radii(points: Tensor, neighbours: int, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return each point's distance to its k-th nearest neighbour (m,), within each choice of rows."""
    found: list[list[Tensor]] = [[] for _ in rows]
    for index, _, between in _between(points, points, rows):
        found[index].append(between.kthvalue(neighbours + 1, dim=1).values)
    return [torch.cat(parts) for parts in found]


def _between(a: Tensor, b: Tensor, rows: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Distances within each choice of rows, some at a time: its number, which of its ``a``, and to all its ``b``."""
    for start in range(0, len(a), _ROWS):
        distances = torch.cdist(a[start : start + _ROWS], b)
        for index, chosen in enumerate(rows):
            here = (chosen >= start) & (chosen < start + len(distances))
            yield index, here, distances[chosen[here] - start][:, chosen]


GROUPS = 16  # the number of groups of events, from which half-samples are made


@attrs.frozen
class PrecisionRecall(TwoSetMetric):
    """Fidelity and diversity (Kynkaanniemi et al. 2019, arXiv:1904.06991), higher is better.

        precision   share of the samples inside the true events' manifold
        recall      share of the true events inside the samples' manifold

    The manifold of a set is the union of balls around its points that reach to their k-th nearest neighbour in the set.
    Both values depend on the number of events, which is the same on both sides here. The balls are as random as the
    events inside them, so the error of a share of independent events would be up to five times too small. The standard
    errors are those of balanced half-samples of both sets (:func:`balanced_halves`), and at least 1 / n: where all n
    events agree, the next one may not.

    The published features are VGG16's second fully connected layer, ``features=vgg16``.
    """

    word: ClassVar[str] = "precision_recall"
    better: ClassVar[Better] = "higher"
    neighbours: int = param(3, "the neighbour k that the balls reach to", ge(1))

    @property
    def fewest(self) -> int:
        """The fewest events with which each half has k neighbours for every point."""
        return GROUPS * math.ceil((self.neighbours + 1) / (GROUPS // 2))

    @property
    def names(self) -> tuple[str, ...]:
        return f"precision_{self.features.name}", f"recall_{self.features.name}"

    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        whole = torch.ones(len(samples), dtype=torch.bool)
        found = shares(samples, truth, self.neighbours, [whole, *balanced_halves(len(samples), GROUPS)])
        estimates = (with_error(values[0], values[1:]) for values in zip(*found, strict=True))
        return tuple(attrs.evolve(each, stderr=max(each.stderr, 1 / len(samples))) for each in estimates)


NOTABLE = 0.02  # the share of the score from which the bias causes a warning


def downward_bias(logits: Tensor, splits: int) -> float:
    """Return the relative bias of the mean score of ``splits`` parts of ``logits`` (n, K), to second order."""
    p = logits.double().softmax(1)
    return float((p.var(0) / p.mean(0)).nansum()) * splits / (2 * len(p))


def classifier_score(logits: Tensor, splits: int) -> Estimate:
    """Return the mean score of ``splits`` disjoint parts of ``logits`` (n, K), and its standard error over them."""
    scores = []
    for part in logits.double().tensor_split(splits):
        log_p = part.log_softmax(1)
        log_marginal = log_p.logsumexp(0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp())
    return mean_of(torch.stack(scores))


@attrs.frozen
class InceptionScore(FeatureMetric):
    """Confidence and variety (Salimans et al. 2016, arXiv:1606.03498), higher is better: 1 to the number of classes.

        exp( E_x KL( p(y | x) || E_x p(y | x) ) )

    The mean over disjoint parts of the samples, with its standard error over the parts, by the class probabilities of
    ``features``, InceptionV3's or any classifier's. It never sees real data, which only its floor uses: a generator of
    one perfect image per class has the best score. The bias of finite sets is about -(K - 1) / 2n in the exponent.
    """

    example: ClassVar[dict[str, str]] = {"features": "mnist_classifier"}
    word: ClassVar[str] = "score"
    better: ClassVar[Better] = "higher"

    splits: int = param(10, "number of disjoint parts", ge(2))

    @property
    def name(self) -> str:
        return f"{self.features.name}_{self.word}"

    @property
    def fewest(self) -> int:
        return 2 * self.splits

    def unfit(self, evidence: Evidence) -> str | None:
        return None

    def judge(self, evidence: Evidence) -> list[Metric]:
        found, details = Estimate(math.nan, math.nan), self.protocol(evidence, splits=self.splits)
        if self.finite(evidence):
            own = self._logits(samples(evidence), evidence)
            logits = own if evidence.processes is None else evidence.processes.gather(own)
            found, bias = classifier_score(logits, self.splits), downward_bias(logits, self.splits)
            details["bias"] = -bias * found.value
            if bias > NOTABLE:
                low = f"{self.name} is about {bias * found.value:.2g} too low: draw more, or lower splits="
                details["warning"] = f"with {evidence.count} samples in {self.splits} parts {low}"
        floor = self.of_floor(evidence, lambda events: classifier_score(self._logits(events, evidence), self.splits))
        return [self.metric(self.name, found, floor, **details)]

    def truth(self, evidence: Evidence) -> EventSet | None:
        return None

    def _logits(self, events: EventSet, evidence: Evidence) -> Tensor:
        batches = [batch.logits for batch in self.seen(events, evidence)]
        if any(logits is None for logits in batches):
            raise UsageError(f"{self.features.name} has no class probabilities: choose features of a classifier")
        return torch.cat([logits for logits in batches if logits is not None])
