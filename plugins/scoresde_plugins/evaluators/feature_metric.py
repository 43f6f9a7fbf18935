"""What the metrics on features share: images are rounded, seen by an extractor in batches, compared with a reference.

The reference is a data set, a file of statistics (``scoresde stats``), or the exact draws of a target. Everything that
a number depends on is written into its row as ``details``: two values can be compared where these are equal.

Samples come on [-1, 1], as everywhere; an extractor that reads images gets them as uint8, rounded to the nearest grey
level, because real images are. (The published score SDE code cuts: ``rounding=floor``.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import ge
from torch import Tensor

from scoresde_core.components import param
from scoresde_core.dataset import Dataset, Split
from scoresde_core.errors import FileError
from scoresde_core.evaluator import Evaluator, Evidence, Reference
from scoresde_core.extractor import Extractor, Features
from scoresde_core.training.batches import Preprocessing

from ..extractors.fidelity import Inception
from .events import Origin, misfit
from .statistics_file import Statistics, read

Rounding = Literal["nearest", "floor"]
HELD_BYTES = 2**30
"""Up to this size the features of the samples are kept for the next metric; beyond, they are extracted again."""


@attrs.frozen
class FeatureMetric(Evaluator):
    """A metric of the samples' features, and in most cases of those of a reference."""

    needs: ClassVar[frozenset[str]] = frozenset()
    word: ClassVar[str]
    example: ClassVar[dict[str, Any]] = {"features": "identity"}

    features: Extractor = param(attrs.Factory(Inception), "what turns events into features")
    reference: Dataset | None = param(
        None, "data set to compare with, such as mnist[root=data]; null: the exact target", eq=repr
    )
    split: Split = param("train", "which part of that data set")
    statistics: str | None = param(None, "file of reference statistics, in the place of a data set")
    rounding: Rounding = param("nearest", "to 8 bits: to the nearest grey level, or down as in score_sde")
    batch_size: int = param(250, "events at a time", ge(1))

    def __attrs_post_init__(self) -> None:
        if self.reference is not None and self.statistics is not None:
            raise ValueError("reference and statistics are both given: leave one of them out")

    @property
    def name(self) -> str:
        """``frechet_inception``: the metric and its features."""
        return f"{self.word}_{self.features.name}"

    def prepare(self) -> None:
        """Load the extractor and the reference."""
        _loaded(_Named(self.features), "cpu")
        if self.statistics is not None:
            self._file()
        if self.reference is not None:
            Origin(self.reference, self.split).events()

    def skip(self, evidence: Evidence) -> str | None:
        """Without a reference; with events that the extractor cannot read; with a data set of other events."""
        reason = super().skip(evidence) or self.features.skip(tuple(evidence.samples.shape[1:]))
        if reason is None and self.statistics is None:
            if self.reference is not None:
                return misfit(self.reference, self.split, evidence, equal=False)
            if evidence.reference is None:
                return (
                    f"{self.name} needs a reference: reference=mnist[root=data], or statistics=FILE from 'scoresde "
                    "stats', in its brackets"
                )
        return reason

    # --- features -------------------------------------------------------------------------------------------------

    def extract(self, events: Tensor, device: torch.device) -> Iterator[Features]:
        """The features of ``events``, uint8 images or floats, batch by batch."""
        network = _loaded(_Named(self.features), str(device))
        with torch.no_grad():
            for batch in torch.split(events, self.batch_size):
                yield network(self._input(batch.to(device)))

    def _input(self, x: Tensor) -> Tensor:
        if not self.features.images:
            return Preprocessing()(x)
        return quantised(x, self.rounding) if x.is_floating_point() else x

    def of_samples(self, evidence: Evidence) -> Iterator[Features]:
        """The features of this process's samples; metrics of the same evidence share them where they are few enough."""
        kept: list[Features] = evidence.once(("features", repr(self.features), self.rounding), list)
        if sum(len(batch.pooled) for batch in kept) == len(evidence.samples):
            yield from kept
            return
        kept.clear()
        held = 0
        for batch in self.extract(evidence.samples, evidence.samples.device):
            held += batch.pooled.nbytes
            if held <= HELD_BYTES:
                kept.append(batch)
            yield batch
        if held > HELD_BYTES:
            kept.clear()

    def all_features(self, evidence: Evidence) -> Tensor:
        """The features (n, D) of all samples, of every process, float64."""
        own = torch.cat([batch.pooled for batch in self.of_samples(evidence)]).double()
        return own if evidence.processes is None else evidence.processes.gather(own)

    def check_width(self, width: int, of_reference: int) -> None:
        """Raise where the reference has other features."""
        if width != of_reference:
            raise FileError(
                f"{self.statistics} holds {of_reference} features an event, {self.features.name} gives {width}: "
                "use the extractor that made it"
            )

    def finite(self, evidence: Evidence) -> bool:
        """Whether every sample of every process is: else no metric has a value."""
        bad = (~evidence.samples.isfinite()).sum()
        return not int(bad if evidence.processes is None else evidence.processes.total(bad))

    # --- reference ------------------------------------------------------------------------------------------------

    def true_features(self, evidence: Evidence) -> Tensor:
        """The features (n, D) of as many true events as there are samples, float64."""
        if self.statistics is not None:
            return self._file().rows(evidence.count, evidence.seed).to(evidence.samples.device).double()
        return self._kept("truth", self.true_events(evidence), evidence)

    def floor_features(self, evidence: Evidence) -> Tensor | None:
        """Those of as many other true events, which play the samples; None where there are none."""
        found = self.floor_events(evidence)
        return None if found is None else self._kept("floor", found, evidence)

    def _kept(self, role: str, found: tuple[Reference, Tensor], evidence: Evidence) -> Tensor:
        keeper, events = found

        def compute() -> Tensor:
            return torch.cat([batch.pooled for batch in self.extract(events, evidence.samples.device)])

        return keeper.once((role, repr(self.features), self.rounding), compute).double()

    def true_events(self, evidence: Evidence) -> tuple[Reference, Tensor]:
        """As many true events as there are samples, and what may keep what follows from them."""
        if self.reference is not None:
            found = Origin(self.reference, self.split).reference(evidence.count, evidence.seed, evidence.samples.device)
            return found, found.stored()
        assert evidence.reference is not None  # skip() has seen to it
        return evidence.reference, evidence.reference.exact(0)

    def floor_events(self, evidence: Evidence) -> tuple[Reference, Tensor] | None:
        """True events that play the samples: of the data set's other split where it has enough, or exact draws."""
        if self.statistics is not None:
            return None
        if self.reference is None:
            assert evidence.reference is not None  # skip() has seen to it
            return (evidence.reference, evidence.reference.exact(1)) if evidence.reference.sets > 1 else None
        other: Split = "test" if self.split == "train" else "train"
        try:
            found = Origin(self.reference, other).reference(evidence.count, evidence.seed, evidence.samples.device)
        except FileError:  # a data set without another split has no floor
            return None
        return (found, found.stored()) if found.sets >= 1 else None

    def _file(self) -> Statistics:
        assert self.statistics is not None
        found = read(self.statistics)
        found.check(_protocol(_Named(self.features)))
        return found

    def protocol(self, evidence: Evidence, **more: Any) -> dict[str, Any]:
        """What the value depends on, for the row."""
        reference: dict[str, Any] | None
        if self.statistics is not None:
            reference = self._file().described()
        elif self.reference is not None:
            size = len(Origin(self.reference, self.split).events())
            reference = {"dataset": repr(self.reference), "split": self.split, "events": size}
        else:
            reference = None if evidence.reference is None else {"target": repr(evidence.target)}
        rounding = self.rounding if self.features.images else None
        features = dict(_protocol(_Named(self.features)))
        return {"features": features, "rounding": rounding, "samples": evidence.count, "reference": reference, **more}


def quantised(x: Tensor, rounding: Rounding) -> Tensor:
    """uint8 images from [-1, 1]."""
    if rounding == "nearest":
        return Preprocessing().to_images(x)
    return (255 * (x + 1) / 2).clamp(0, 255).to(torch.uint8)


@attrs.frozen
class _Named:
    """An extractor as a key; equal where both are written alike."""

    extractor: Extractor = attrs.field(eq=repr)


@lru_cache(maxsize=2)
def _loaded(named: _Named, device: str) -> Callable[[Tensor], Features]:
    return named.extractor.load(torch.device(device))


@lru_cache(maxsize=16)
def _protocol(named: _Named) -> dict[str, Any]:
    return dict(named.extractor.protocol())
