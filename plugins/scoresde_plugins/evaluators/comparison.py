"""Metrics that compare samples with true events, exact draws of a target or a data set, and the errors of these."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import Better, Estimate, Evaluator, Metric, param
from scoresde_run import Dataset, EventSet, Evidence, Reference, Split, Units
from scoresde_run.data.batches import order
from scoresde_run.data.dataset import content_hash
from scoresde_run.results.certainty import difference


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


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of independent float64 ``values`` (n,) and its standard error; NaN for n = 1."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), error, len(values) - 1)


def balanced_halves(n: int, most: int = 64) -> list[Tensor]:
    """Return masks (n,) of half of n events, each followed by its complement.

    Balanced half-samples (McCarthy 1969, doi:10.2307/1402116): the events are cut into G groups, the largest power of 2
    of at most n and ``most``. The G - 1 rows of a Hadamard matrix that have both signs split these into halves, in
    which any two groups are on the same side about equally often.
    """
    groups = 1 << min(n, most).bit_length() - 1
    matrix = torch.ones(1, 1)
    while len(matrix) < groups:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    first = matrix[1:, torch.arange(n) * groups // n] > 0
    return [half for mask in first for half in (mask, ~mask)]


def with_error(value: float, of_halves: Sequence[float]) -> Estimate:
    """Return a statistic of all events with the error from its values on the halves a and b of each row.

        s^2 = mean over the rows of (f(a) - f(b))^2 / 4

    f(a) and f(b) are independent, and each has twice the variance of f of all events where that falls as 1 / n. Unlike
    a jackknife, this does not need a smooth statistic.
    """
    squares = [(a - b) ** 2 for a, b in zip(of_halves[::2], of_halves[1::2], strict=True)]
    return Estimate(value, math.sqrt(sum(squares) / len(squares)) / 2, len(squares))


@attrs.frozen
class NLLGap(Comparison):
    """Mean of -log p(x_i) minus the entropy of p, in nats per event: how far from typical the samples are.

        gap = E_q[-log p(x)] - H(p) = KL(q || p) + H(q) - H(p)

    It is 0 for q = p, positive where samples lie where p is small, and negative where they are too typical (collapsed
    onto the modes, or denoised too far). A good sampler brings it to zero, not below.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"target", "density"})
    name: ClassVar[str] = "nll_gap"
    unit: ClassVar[str] = "nats"
    better: ClassVar[Better] = "zero"

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        surprise = -reference.precise.log_prob(samples).double()
        return difference(mean_of(surprise), reference.once("entropy", reference.precise.entropy))


@attrs.frozen
class ModeWeights(Comparison):
    """Total variation 1/2 sum_k |mean_i r_k(x_i) - w_k|, between 0 and 1: whether each component has its share.

    The posterior responsibilities r_k(x) = w_k p_k(x) / p(x) average to the weights under the true mixture, without any
    threshold or clustering. The standard error is that of half-samples (:func:`balanced_halves`).
    """

    name: ClassVar[str] = "mode_weights"
    smallest: ClassVar[int] = 4

    def skip(self, evidence: Evidence) -> str | None:
        if evidence.target is not None and evidence.target.modes() is None:
            return f"{type(evidence.target).__name__} has no components"
        return super().skip(evidence)

    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        weights = reference.precise.modes()
        assert weights is not None  # checked by skip()
        shares = reference.precise.responsibilities(samples).double()
        if not bool(shares.isfinite().all()):
            return Estimate(math.nan, math.nan)
        weights = weights.to(shares)
        chosen = [torch.ones(len(samples), dtype=torch.bool), *balanced_halves(len(samples))]
        value, *of_halves = (float((shares[part].mean(0) - weights).abs().sum() / 2) for part in chosen)
        return with_error(value, of_halves)


KEPT = 2  # how many splits, and sets of each split besides the whole, are cached for the next cell or checkpoint


@attrs.define(eq=False)
class EventReference(Reference):
    """Disjoint sets of events, in a random order that depends on the seed; images are on [-1, 1], as samples are."""

    events: Tensor = attrs.field(kw_only=True, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.events.shape[1:])

    @property
    def sets(self) -> float:
        return len(self.events) // self.size

    def stored(self, which: int = 0) -> Tensor:
        """Return the events of a set as they are stored."""
        return self.events[self.rows(which)]

    def rows(self, which: int = 0) -> Tensor:
        """Return the indices of the events of a set in the data set."""
        if which >= self.sets:
            raise ValueError(f"{len(self.events)} events are too few for {which + 1} sets of {self.size}")
        rows = self.once("order", lambda: order(self.seed, 0, len(self.events)))
        return rows[which * self.size : (which + 1) * self.size]

    def draw(self, which: int) -> Tensor:
        return Units().encode(self.stored(which))


@attrs.frozen
class Origin:
    """A split of a data set; equal if both are written alike."""

    dataset: Dataset = attrs.field(eq=lambda dataset: (type(dataset), repr(dataset)))
    split: Split

    @lru_cache(maxsize=KEPT)  # noqa: B019  # equal origins share it, and few are kept
    def events(self) -> Tensor:
        """Return all events in their stored order, cached; uint8 images or floats."""
        return self.dataset.load(self.split)

    def reference(self, size: int, seed: int, device: torch.device | str) -> EventReference:
        """Return disjoint sets of ``size`` events; equal arguments share one reference."""
        return _reference(self, size, seed, str(device))

    def misfit(self, evidence: Evidence, equal: bool = True) -> str | None:
        """Return why samples cannot be compared with these events, or None; ``equal`` asks for as many of them."""
        own, shape = self.dataset.shape, tuple(evidence.samples.shape[1:])
        if own != shape:
            hint = "choose another data set, or resize it with reference=resized[data=...,size=...]"
            return f"the reference has events of shape {own}, the samples {shape}: {hint}"
        size, count = len(self.events()) if equal else evidence.count, evidence.count
        few = f"the {self.split} split of the reference has {size} events, fewer than {count} samples: draw fewer"
        return few if size < count else None

    def whole(self, device: torch.device | str) -> EventSet:
        """Return all events, in their stored order."""
        size, label = len(self.events()), (repr(self.dataset), self.split)
        return EventSet(label, size, self.events, self.reference(size, 0, device))

    def subset(self, size: int, seed: int, device: torch.device | str) -> EventSet:
        """Return the first set of a reference."""
        found, whole = self.reference(size, seed, device), self.whole(device)
        return EventSet((*whole.label, size, seed), size, found.stored, found, whole, found.rows)


@lru_cache(maxsize=KEPT * (KEPT + 1))
def _reference(origin: Origin, size: int, seed: int, device: str) -> EventReference:
    return EventReference(None, size, seed, device, events=origin.events())


class DataReference:
    """Base class of metrics whose reference may be a data set."""

    reference: Dataset | None
    split: Split

    @property
    def origin(self) -> Origin | None:
        """The split of the data set, if one is given."""
        return None if self.reference is None else Origin(self.reference, self.split)

    def prepare(self) -> None:
        """Read the data set, so that a missing one is an error here."""
        if self.origin is not None:
            self.origin.events()


@attrs.frozen
class SetComparison(DataReference, Comparison):
    """A comparison with sets of true events only, for which a data set can replace an exact target."""

    needs: ClassVar[frozenset[str]] = frozenset()

    reference: Dataset | None = param(
        None, "data set to compare with, such as mnist[root=data]; null: the exact target", kw_only=True, eq=repr
    )
    split: Split = param("train", "which part of that data set", kw_only=True)

    def depends_on(self, evidence: Evidence) -> Mapping[str, Any]:
        return {} if self.origin is None else {"hash": content_hash(self.origin.events())}

    def skip(self, evidence: Evidence) -> str | None:
        if self.origin is None and evidence.reference is None:
            return f"{type(self).__name__} needs target, or a data set: {self.name}[reference=mnist[root=data]]"
        return (self.origin and self.origin.misfit(evidence)) or super().skip(evidence)

    def truth(self, evidence: Evidence) -> Reference | None:
        if self.origin is None:
            return evidence.reference
        return self.origin.reference(evidence.count, evidence.seed, evidence.samples.device)
