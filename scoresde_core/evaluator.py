"""Evaluators: metrics from samples, each with its direction, unit, standard error and, where it has one, its floor.

The floor is what exact samples of the same size score: no sampler can be told apart from the truth below it. The
truth is an exact target, or a data set, which knows no formula but has sets of events to compare with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import attrs
import torch
from torch import Tensor

from .estimate import Estimate
from .extractor import Extraction
from .noise import key
from .sampler import Sampler
from .score import ScoreModel
from .sde import SDE
from .target import Target
from .units import Units

Better = Literal["lower", "higher", "zero"]
T = TypeVar("T")


@attrs.frozen
class Metric:
    """A measured value; ``better`` says where the good end is (``zero``: nearest to 0).

    ``details`` is plain data for the result row: the protocol behind the value, and a ``warning`` where there is one.
    """

    name: str
    value: float
    stderr: float
    floor: float | None = None
    floor_stderr: float | None = None
    unit: str = ""
    better: Better = "lower"
    details: Mapping[str, Any] = attrs.field(factory=dict)
    df: float = math.inf
    """Degrees of freedom of ``stderr``: independent pieces it was found from, less one; in a row, null is inf."""
    floor_df: float = math.inf

    def plain(self) -> dict[str, Any]:
        """What a row holds under its name; most metrics have no details."""
        return {key: value for key, value in attrs.asdict(self).items() if key != "name" and value != {}}


def valueless(metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why ``metrics`` of finite samples, as a row holds them, are no result: not one is a number. None where one is."""
    if not metrics or any(math.isfinite(metric["value"]) for metric in metrics.values()):
        return None
    return f"no metric of finite samples has a finite value: {', '.join(metrics)}"


class Processes(Protocol):
    """The processes that share the samples, each with a part of them."""

    @property
    def device(self) -> torch.device:
        """The device of this one."""

    @property
    def rank(self) -> int:
        """The number of this one."""

    @property
    def count(self) -> int:
        """How many there are."""

    def total(self, value: Tensor) -> Tensor:
        """``value`` summed over the processes, in place; every process must ask."""

    def gather(self, value: Tensor) -> Tensor:
        """The rows of every process's ``value``, in order of rank; every process must ask."""


@attrs.define(eq=False)
class _Keeping:
    """Caches values derived from this object."""

    _kept: dict[Hashable, Any] = attrs.field(factory=dict, init=False, repr=False)

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """``compute()`` at the first call with this ``name``, the kept result after that."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]  # type: ignore[no-any-return]


@attrs.define(eq=False)
class Reference(_Keeping):
    """The truth that samples are held against: a target, exact sets of ``size`` draws, and what follows from them.

    Everything is computed on first use, on ``device``, and kept, so cells with the same target, size and seed should
    share one reference. Cells that only have equal seeds get equal draws too: they cancel when cells are compared.

    Sets from elsewhere, such as a data set, are a subclass with ``target=None`` and its own :meth:`draw`.
    """

    target: Target | None
    size: int
    seed: int = 0
    device: torch.device | str = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.exact_target.shape

    @property
    def sets(self) -> float:
        """How many independent sets there are."""
        return math.inf

    def draw(self, which: int) -> Tensor:
        """The events of :meth:`exact`, on any device."""
        return self.exact_target.sample(self.size, seed=key(self.seed, "exact", which) % 2**31)

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact set (size, *shape): 0 is the reference, 1 plays the samples in a floor."""
        return self.once(("exact", which), lambda: self.draw(which).to(self.device))

    @property
    def exact_target(self) -> Target:
        """The target, which metrics that need its formulas have asked for in :attr:`Evaluator.needs`."""
        if self.target is None:
            raise ValueError(f"{type(self).__name__} has no exact target")
        return self.target

    @property
    def precise(self) -> Target:
        """The target on ``device``, answering in float64."""
        return self.once("precise", lambda: self.exact_target.to(self.device, torch.float64))


@attrs.frozen
class EventSet:
    """Events whose features a metric reads. Sets with the same label are taken for the same set.

    A set that others read as well comes from a function that they use too:
    of the samples, of a target's exact draws, of a data set.
    """

    label: tuple[Any, ...]
    """What the events are, as plain data: nothing else may have this label."""
    size: int = attrs.field(eq=False)
    load: Callable[[], Tensor] = attrs.field(eq=False, repr=False)
    keeper: Reference | None = attrs.field(default=None, eq=False, repr=False)
    """What the events follow from, beside the evidence."""
    whole: EventSet | None = attrs.field(default=None, eq=False, repr=False)
    """The set that they are a part of, if any."""
    rows: Callable[[], Tensor] | None = attrs.field(default=None, eq=False, repr=False)
    """Where they are in it."""

    def __attrs_post_init__(self) -> None:
        if (self.whole is None) != (self.rows is None):
            raise ValueError(f"the events {self.label} are a part of a set: give both whole and rows, or neither")

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, kept with what the events follow from."""
        return compute() if self.keeper is None else self.keeper.once(name, compute)

    def share(self, processes: Processes | None) -> EventSet:
        """Every n-th of them, of n processes."""
        if processes is None or processes.count == 1:
            return self
        rank, count = processes.rank, processes.count
        size = len(range(rank, self.size, count))
        return EventSet((*self.label, rank, count), size, lambda: self.load()[rank::count], self.keeper)


@attrs.define(eq=False)
class Evidence(_Keeping):
    """What there is to judge: samples (B, *shape), and the truth, the model or the sampler behind them where known.

    Samples and truth are in the numbers of the data, images on [-1, 1]. A model and its sampler have ``units`` of their
    own (None: those of the data) and a ``dtype`` (None: that of the samples): :meth:`seen` is what to ask it about.
    A ``reference`` may be given in place of ``target`` and ``seed``, to share it; else it is made from them.
    With ``processes``, ``samples`` are this process's share, in order of rank: every process asks, and all are told
    the same about all samples.
    """

    samples: Tensor
    seed: int = 0
    target: Target | None = None
    model: ScoreModel | None = None
    sampler: Sampler | None = None
    reference: Reference | None = None
    processes: Processes | None = None
    units: Units | None = None
    dtype: torch.dtype | None = None
    count: int = attrs.field(default=0, init=False)
    """The number of all samples."""

    def __attrs_post_init__(self) -> None:
        self.count = len(self.samples)
        if self.processes is not None:
            self.count = int(self.processes.total(torch.tensor(self.count, device=self.processes.device)))
        if self.reference is not None:
            if self.target is not None and self.target is not self.reference.target:
                raise ValueError("the reference is of another target: leave the target out, or the reference")
            self.target, self.seed = self.reference.target, self.reference.seed
        elif self.target is not None:
            self.reference = Reference(self.target, self.count, self.seed, self.samples.device)
        if self.reference is None:
            return
        found, expected = (self.count, *self.samples.shape[1:]), (self.reference.size, *self.reference.shape)
        if found != expected:
            raise ValueError(f"the samples have shape {found}, the reference has {expected}")

    @property
    def sde(self) -> SDE | None:
        """The process of the model, where there is one."""
        return None if self.model is None else self.model.sde

    def seen(self, x: Tensor) -> Tensor:
        """Events ``x`` of the data as the model sees them."""
        return (self.units or Units()).encode(x).to(self.dtype or self.samples.dtype)

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact sample set, as large as ``samples``, of their device and dtype."""
        if self.reference is None:
            raise ValueError("there is no exact target to draw from")
        return self.reference.exact(which).to(self.samples)

    def gathered(self) -> Tensor:
        """All samples, of every process."""
        return self.samples if self.processes is None else self.processes.gather(self.samples)


class Evaluator(ABC):
    """A metric of samples, or of what draws them: the model, the sampler. ``needs`` names entries of the evidence."""

    judges: ClassVar[Literal["samples", "model"]] = "samples"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    unit: ClassVar[str] = ""
    better: ClassVar[Better] = "lower"

    def skip(self, evidence: Evidence) -> str | None:
        """Why this metric cannot be computed from ``evidence``, or None."""
        missing = [need for need in sorted(self.needs) if getattr(evidence, need) is None]
        return f"{type(self).__name__} needs {' and '.join(missing)}" if missing else None

    def metric(self, name: str, found: Estimate, floor: Estimate | None = None, **details: Any) -> Metric:
        """A value of this evaluator, with its unit and direction."""
        low = (None, None, math.inf) if floor is None else (floor.value, floor.stderr, floor.df)
        return Metric(
            name, found.value, found.stderr, low[0], low[1], self.unit, self.better, details, found.df, low[2]
        )

    def prepare(self) -> None:
        """Open what it needs beside the evidence, before any work starts: a missing file is an error here."""
        return

    def reads(self, evidence: Evidence) -> Sequence[tuple[Extraction, EventSet]]:
        """The features that :meth:`evaluate` reads: how they are extracted, and of which events. By default none.

        ``scoresde evaluate`` extracts them beforehand, in batches that survive a kill, are divided among processes, and
        are shared with every evaluator that reads the same. It calls this after :meth:`skip`, before any sample is
        drawn: the samples in ``evidence`` are blank.
        """
        return ()

    def depends_on(self, evidence: Evidence) -> Mapping[str, Any]:
        """What the value depends on that nobody else can see: plain data, tensors or components. By default nothing.

        Samples, target, parameters, files that these name, source and :meth:`reads` are known. Where the answer differs
        from that of a former evaluation, ``scoresde evaluate`` measures anew. The samples in ``evidence`` are blank.
        """
        return {}

    @abstractmethod
    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """The metric of ``evidence.samples``, in most cases a single one."""


class Comparison(Evaluator):
    """A metric of samples against an exact target: give ``name`` and :meth:`measure`, the floor follows.

    One NaN or infinity among the samples makes the value and its error NaN, whatever the metric: the sampler
    diverged, and judging the finite samples alone would flatter it. The floor is there all the same. Samples that
    are finite but so far out that float64 overflows give inf or NaN.
    """

    name: ClassVar[str]
    smallest: ClassVar[int] = 3
    """The fewest samples with a standard error."""

    def skip(self, evidence: Evidence) -> str | None:
        """Why this metric cannot be computed from ``evidence``, or None."""
        few = evidence.count < self.smallest
        return super().skip(evidence) or (
            f"{type(self).__name__} needs {self.smallest} samples or more, got {evidence.count}" if few else None
        )

    def truth(self, evidence: Evidence) -> Reference | None:
        """What the samples are held against."""
        return evidence.reference

    @abstractmethod
    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """The metric of finite float64 ``samples`` (n, *shape) against ``reference``."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """The metric of ``evidence.samples``, and that of as many exact samples as its floor."""
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
