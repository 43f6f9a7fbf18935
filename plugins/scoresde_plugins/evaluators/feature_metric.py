"""Base classes of the metrics on features: images are rounded, an extractor reads them, a reference is compared.

The reference is a data set, a file of statistics (``scoresde stats``), or exact draws of the target. Everything that
a value depends on is written into its row as ``details``: two values can be compared where these are equal.

Samples are on [-1, 1], as everywhere. An extractor that reads images receives them as uint8, rounded to the nearest
grey level, because real images are. (The published score SDE code truncates: ``rounding=floor``.)
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import Estimate, Evaluator, FileError, Metric, param
from scoresde_run import Dataset, EventSet, Evidence, Extraction, Extractor, Features, Reference, Split
from scoresde_run.features.extraction import Rounding
from ..extractors.networks import Inception
from .comparison import DataReference, Origin
from .statistics_file import Statistics, read

HELD_BYTES = 2**30
"""The largest size of the features of a set that are cached for the next metric; larger ones are extracted again."""
_LOOKED_AT = 256


@attrs.define(eq=False)
class Extracted:
    """Features, batch by batch; extracted once if they take at most ``held`` bytes."""

    extract: Callable[[], Iterable[Features]]
    held: int = 0

    def __iter__(self) -> Iterator[Features]:
        kept, size = list[Features](), 0
        for batch in self.extract():
            size += batch.pooled.nbytes
            kept = [*kept, batch] if size <= self.held else []
            yield batch
        if size <= self.held:
            self.extract = lambda: kept


def samples(evidence: Evidence) -> EventSet:
    """Return the samples of this process."""
    x = evidence.samples
    return EventSet(("samples",), len(x), lambda: x)


def draws(reference: Reference, which: int) -> EventSet:
    """Return the ``which``-th set of the reference."""
    label = ("draws", repr(reference.target), reference.size, reference.seed, which)
    return EventSet(label, reference.size, lambda: reference.exact(which), reference)


def features(extraction: Extraction, events: EventSet, evidence: Evidence, keep: bool = True) -> Iterable[Features]:
    """Return the features of ``events``: those in the evidence, cached ones, or new ones."""
    key, device = (extraction, events), evidence.samples.device

    def fresh() -> Extracted:
        return Extracted(lambda: extraction(events.load(), device), HELD_BYTES if keep else 0)

    return evidence.once(key, lambda: events.once(key, fresh) if keep else fresh())


def pooled(batches: Iterable[Features]) -> Tensor:
    """Return all features in one tensor (n, D), float64."""
    return torch.cat([batch.pooled for batch in batches]).double()


T = TypeVar("T")


@attrs.frozen
class FeatureMetric(DataReference, Evaluator):
    """A metric of the samples' features and, in most cases, of those of a reference."""

    needs: ClassVar[frozenset[str]] = frozenset()
    word: ClassVar[str]
    equal: ClassVar[bool] = True
    """Whether the reference has as many events as there are samples, else all of its events."""
    example: ClassVar[dict[str, Any]] = {"features": "identity"}

    features: Extractor = param(attrs.Factory(Inception), "extractor that turns events into features")
    reference: Dataset | None = param(
        None, "data set to compare with, such as mnist[root=data]; null: the exact target", eq=repr
    )
    split: Split = param("train", "which part of that data set")
    statistics: str | None = param(None, "file of reference statistics, instead of a data set")
    rounding: Rounding = param("nearest", "rounding to 8 bits: nearest, or down as in score_sde")
    batch_size: int = param(250, "events at a time", ge(1))

    def __attrs_post_init__(self) -> None:
        if self.reference is not None and self.statistics is not None:
            raise ValueError("reference and statistics are both given: omit one of them")

    @property
    def name(self) -> str:
        """``frechet_inception``: the metric and its features."""
        return f"{self.word}_{self.features.name}"

    def prepare(self) -> None:
        self.extraction.prepare()
        if self.statistics is not None:
            self._file()
        super().prepare()

    @property
    @abstractmethod
    def fewest(self) -> int:
        """The fewest samples that have a value with an error."""

    def skip(self, evidence: Evidence) -> str | None:
        reason = super().skip(evidence) or self.features.skip(tuple(evidence.samples.shape[1:]))
        if reason := reason or self.unfit(evidence) or self._no_images(evidence):
            return reason
        few = f"{self.name} needs {self.fewest} samples or more, got {evidence.count}"
        return few if evidence.count < self.fewest else None

    def unfit(self, evidence: Evidence) -> str | None:
        """Return why the reference cannot be used, or None."""
        if self.statistics is not None:
            return None
        if self.origin is not None:
            return self.origin.misfit(evidence, self.equal)
        how = "reference=mnist[root=data], or statistics=FILE from 'scoresde stats', in its brackets"
        return None if evidence.reference is not None else f"{self.name} needs a reference: {how}"

    def _no_images(self, evidence: Evidence) -> str | None:
        """Return why the samples or the true events are not images, where the extractor reads images, or None.

        They are not if more than 1 in 100 numbers of the first events lie far outside [-1, 1], where rounding clips.
        """
        if not self.features.images:
            return None
        sets = [evidence.samples] if evidence.units is not None and evidence.units.levels is None else []
        if self.origin is not None:
            sets.append(self.origin.events())
        elif self.statistics is None and evidence.target is not None and not evidence.target.images:
            sets.append(evidence.exact())
        for some in (events[:_LOOKED_AT] for events in sets):
            if some.is_floating_point() and float((some.abs() > 1.5).double().mean()) > 0.01:
                hint = "choose features=identity, or a metric of points such as sliced_wasserstein"
                these = f"floats from {float(some.min()):.4g} to {float(some.max()):.4g}"
                return f"{self.features.name} reads images on [-1, 1], and these are {these}: {hint}"
        return None

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        if reason := self.skip(evidence):
            raise ValueError(reason)
        return self.judge(evidence)

    @abstractmethod
    def judge(self, evidence: Evidence) -> list[Metric]:
        """Return the metrics of evidence that :meth:`skip` accepts."""

    @property
    def extraction(self) -> Extraction:
        """How events become features."""
        return Extraction(self.features, self.rounding if self.features.images else None, self.batch_size)

    def reads(self, evidence: Evidence) -> list[tuple[Extraction, EventSet]]:
        sets = (samples(evidence), self.truth(evidence), self.floor(evidence))
        return [(self.extraction, events) for events in sets if events is not None]

    def depends_on(self, evidence: Evidence) -> Mapping[str, Any]:
        return {"protocol": self.protocol(evidence)}

    def seen(self, events: EventSet, evidence: Evidence, keep: bool = True) -> Iterable[Features]:
        """Return the features of a set, batch by batch."""
        return features(self.extraction, events, evidence, keep)

    def check_width(self, width: int, of_reference: int) -> None:
        """Raise FileError if the reference has another number of features."""
        if width != of_reference:
            why = f"{self.statistics} has {of_reference} features per event, {self.features.name} gives {width}"
            raise FileError(f"{why}: use the extractor that made it")

    def finite(self, evidence: Evidence) -> bool:
        """Whether all samples of all processes are finite; otherwise no metric has a value."""
        bad = (~evidence.samples.isfinite()).sum()
        return not int(bad if evidence.processes is None else evidence.processes.total(bad))

    def truth(self, evidence: Evidence) -> EventSet | None:
        """Return as many true events as there are samples; None if a file is used instead."""
        if self.statistics is not None:
            return None
        if self.origin is not None:
            return self.origin.subset(evidence.count, evidence.seed, evidence.samples.device)
        assert evidence.reference is not None  # checked by skip()
        return draws(evidence.reference, 0)

    def floor(self, evidence: Evidence) -> EventSet | None:
        """Return true events for the floor: from the data set's other split, if it has enough, or exact draws."""
        if self.statistics is not None:
            return None
        if self.reference is None:
            reference = evidence.reference
            return draws(reference, 1) if reference is not None and reference.sets > 1 else None
        other: Split = "test" if self.split == "train" else "train"
        origin = Origin(self.reference, other)
        try:
            enough = len(origin.events()) >= evidence.count
        except FileError:  # a data set without another split has no floor
            return None
        return origin.subset(evidence.count, evidence.seed, evidence.samples.device) if enough else None

    def of_floor(self, evidence: Evidence, compute: Callable[[EventSet], T]) -> T | None:
        """Return ``compute`` of the true events of the floor, cached; None without a floor."""
        found = self.floor(evidence)
        return None if found is None else found.once((type(self), repr(self), "floor"), lambda: compute(found))

    def _file(self) -> Statistics:
        assert self.statistics is not None
        found = read(self.statistics)
        found.check(self.extraction.protocol["features"])
        return found

    def protocol(self, evidence: Evidence, **more: Any) -> dict[str, Any]:
        """Return everything that the value depends on, for the row."""
        reference: Any = None if evidence.reference is None else {"target": repr(evidence.target)}
        if self.statistics is not None:
            reference = self._file().described()
        elif self.origin is not None:
            size = len(self.origin.events())
            reference = {"dataset": repr(self.reference), "split": self.split, "events": size}
        return {**self.extraction.protocol, "samples": evidence.count, "reference": reference, **more}


@attrs.frozen
class TwoSetMetric(FeatureMetric):
    """A metric that compares the samples' features with those of as many true events."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values of :meth:`compare`."""
        return (self.name,)

    @abstractmethod
    def compare(self, samples: Tensor, truth: Tensor) -> tuple[Estimate, ...]:
        """Return the values for features ``samples`` and ``truth``, both (n, D), float64."""

    def judge(self, evidence: Evidence) -> list[Metric]:
        asked, others = self.truth(evidence), self.floor(evidence)
        if asked is None:
            truth = self._file().rows(evidence.count, evidence.seed).to(evidence.samples.device).double()
        else:
            truth = pooled(self.seen(asked, evidence))
        found = tuple(Estimate(math.nan, math.nan) for _ in self.names)
        if self.finite(evidence):
            own = pooled(self.seen(samples(evidence), evidence))
            both = own if evidence.processes is None else evidence.processes.gather(own)
            self.check_width(both.shape[1], truth.shape[1])
            found = self.compare(both, truth)
        floor: Sequence[Estimate | None] = [None] * len(found)
        if others is not None:
            floor = self.compare(pooled(self.seen(others, evidence)), truth)
        details = self.protocol(evidence)
        return [self.metric(*each, **details) for each in zip(self.names, found, floor, strict=True)]
