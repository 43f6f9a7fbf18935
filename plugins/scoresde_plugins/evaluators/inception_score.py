"""Inception score (Salimans et al. 2016, arXiv:1606.03498): confident about each sample, and varied over all.

    exp( E_x KL( p(y | x) || E_x p(y | x) ) )

It lies between 1 and the number of classes. It never sees real data: a generator of one perfect image per class has the
best possible score. Finite sets are biased downwards, by about (K - 1) / 2n in the exponent.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.errors import UsageError
from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Better, Metric
from scoresde_run.data.evidence import Evidence
from scoresde_run.features.extraction import EventSet

from .extraction import samples
from .feature_metric import FeatureMetric

NOTABLE = 0.02
"""The share of the score from which the bias causes a warning."""


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
    values = torch.stack(scores)
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(splits), splits - 1)


@attrs.frozen
class InceptionScore(FeatureMetric):
    """The mean score over disjoint parts of the samples, higher is better, with its standard error over the parts.

    It uses the class probabilities of ``features``, InceptionV3's or any classifier's. A reference is used only for the
    floor: the score of real images.
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
        """Return the score of the samples; the floor is that of true events, if there are any."""
        found, details = Estimate(math.nan, math.nan), self.protocol(evidence, splits=self.splits)
        if self.finite(evidence):
            own = self._logits(samples(evidence), evidence)
            logits = own if evidence.processes is None else evidence.processes.gather(own)
            found, bias = classifier_score(logits, self.splits), downward_bias(logits, self.splits)
            details["bias"] = -bias * found.value
            if bias > NOTABLE:
                details["warning"] = (
                    f"with {evidence.count} samples in {self.splits} parts {self.name} is about "
                    f"{bias * found.value:.2g} too low: draw more, or lower splits="
                )
        floor = self.of_floor(evidence, lambda events: classifier_score(self._logits(events, evidence), self.splits))
        return [self.metric(self.name, found, floor, **details)]

    def truth(self, evidence: Evidence) -> EventSet | None:
        """None: the score uses no data."""
        return None

    def _logits(self, events: EventSet, evidence: Evidence) -> Tensor:
        batches = [batch.logits for batch in self.seen(events, evidence)]
        if any(logits is None for logits in batches):
            raise UsageError(f"{self.features.name} has no class probabilities: choose features of a classifier")
        return torch.cat([logits for logits in batches if logits is not None])
