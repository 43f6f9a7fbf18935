"""Metrics that compare samples with exact samples of a target."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Evaluator, Metric
from scoresde_run.data.evidence import Evidence, Reference


class Comparison(Evaluator):
    """A metric of samples against an exact target: give ``name`` and :meth:`measure`, the floor follows.

    If any sample is NaN or infinite, the sampler diverged and the value and its error are NaN, as the finite samples
    alone would flatter it; the floor is still given. Finite samples that overflow float64 give inf or NaN.
    """

    name: ClassVar[str]
    smallest: ClassVar[int] = 3
    """The fewest samples with a standard error."""

    def skip(self, evidence: Evidence) -> str | None:
        if reason := super().skip(evidence):
            return reason
        few = f"{type(self).__name__} needs {self.smallest} samples or more, got {evidence.count}"
        return few if evidence.count < self.smallest else None

    def truth(self, evidence: Evidence) -> Reference | None:
        """The reference to compare the samples with."""
        return evidence.reference

    @abstractmethod
    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """The metric of finite float64 ``samples`` (n, *shape) against ``reference``."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """The metric of ``evidence.samples``, with that of as many exact samples as its floor."""
        reason, reference = self.skip(evidence), self.truth(evidence)
        if reason or reference is None:
            raise ValueError(reason or f"{type(self).__name__} needs target")
        samples = evidence.gathered().to(reference.device, torch.float64)
        finite = bool(samples.isfinite().all())
        found = self.measure(samples, reference) if finite else Estimate(math.nan, math.nan)
        floor = None
        if reference.sets > 1:
            floor = reference.once((self, "floor"), lambda: self.measure(reference.exact(1).double(), reference))
        return [self.metric(self.name, found, floor)]
