"""Evaluators: metrics from samples, each with a direction, unit, standard error and, for some, a floor.

The floor is the score of as many exact samples: below it no sampler can be told apart from the truth. The truth is an
exact target, or a data set, which has no formula but sets of events to compare with.
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
from .noise import key
from .sampler import Sampler
from .score import ScoreModel
from .sde import SDE
from .target import Target

Better = Literal["lower", "higher", "zero"]
T = TypeVar("T")


@attrs.frozen
class Metric:
    """A measured value; ``better`` is the good direction (``zero``: near 0).

    ``details`` is plain data for the result row: the protocol behind the value, and possibly a ``warning``.
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
    """Degrees of freedom of ``stderr``: independent pieces that it comes from, less one; null in a row is inf."""
    floor_df: float = math.inf

    def plain(self) -> dict[str, Any]:
        """The metric as a row holds it under its name, without empty details."""
        return {key: value for key, value in attrs.asdict(self).items() if key != "name" and value != {}}


class Processes(Protocol):
    """The processes that share the samples, each with a part of them; every process must call each method."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""

    @property
    def rank(self) -> int:
        """The number of this process."""

    @property
    def count(self) -> int:
        """The number of processes."""

    def total(self, value: Tensor) -> Tensor:
        """``value`` summed over the processes, in place."""

    def gather(self, value: Tensor) -> Tensor:
        """The rows of ``value`` from all processes, in order of rank."""


class ModelUnits(Protocol):
    """The units of a model's input, as metrics of a model see them."""

    @property
    def levels(self) -> int | None:
        """Grey levels of an image; None for floats."""

    @property
    def unscaled(self) -> bool:
        """Whether the model takes data as they are."""

    def encode(self, events: Tensor) -> Tensor:
        """Model values of data ``events`` (B, ...)."""

    def log_volume(self, shape: tuple[int, ...]) -> float:
        """log |d data / d model| of an event in nats."""


@attrs.define(eq=False)
class _Cache:
    """Caches values derived from this object."""

    _values: dict[Hashable, Any] = attrs.field(factory=dict, init=False, repr=False)

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """``compute()`` on the first call with this ``name``, then the cached result."""
        if name not in self._values:
            self._values[name] = compute()
        return self._values[name]  # type: ignore[no-any-return]


@attrs.define(eq=False)
class Reference(_Cache):
    """The truth to compare samples with: a target, exact sets of ``size`` draws, and values derived from them.

    Everything is computed on ``device`` on first use and cached, so cells with the same target, size and seed should
    share a reference. Equal seeds give equal draws, which cancel when cells are compared.
    A subclass with ``target=None`` and its own :meth:`draw` takes the sets from elsewhere, such as a data set.
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
        """The number of independent sets."""
        return math.inf

    def draw(self, which: int) -> Tensor:
        """Draw the events of :meth:`exact`, on any device."""
        return self.exact_target.sample(self.size, seed=key(self.seed, "exact", which) % 2**31)

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact set (size, *shape): 0 is the reference, 1 the samples of a floor."""
        return self.once(("exact", which), lambda: self.draw(which).to(self.device))

    @property
    def exact_target(self) -> Target:
        """The target; metrics that use its formulas must list it in :attr:`Evaluator.needs`."""
        if self.target is None:
            raise ValueError(f"{type(self).__name__} has no exact target")
        return self.target

    @property
    def precise(self) -> Target:
        """The target on ``device`` in float64."""
        return self.once("precise", lambda: self.exact_target.to(self.device, torch.float64))


@attrs.define(eq=False)
class Evidence(_Cache):
    """What to evaluate: samples (B, *shape) and, if known, their truth, model and sampler.

    Samples and truth are in units of the data, images on [-1, 1]. The model has its own ``units`` (None: those of the
    data) and ``dtype`` (None: that of the samples); :meth:`seen` converts events for it. ``reference`` replaces
    ``target`` and ``seed`` to share a reference. With ``processes``, ``samples`` are this process's share, in order of
    rank; every process evaluates and gets the same result about all samples.
    """

    samples: Tensor
    seed: int = 0
    target: Target | None = None
    model: ScoreModel | None = None
    sampler: Sampler | None = None
    reference: Reference | None = None
    processes: Processes | None = None
    units: ModelUnits | None = None
    dtype: torch.dtype | None = None
    count: int = attrs.field(default=0, init=False)
    """The number of all samples."""

    def __attrs_post_init__(self) -> None:
        self.count = len(self.samples)
        if self.processes is not None:
            self.count = int(self.processes.total(torch.tensor(self.count, device=self.processes.device)))
        if self.reference is not None:
            if self.target is not None and self.target is not self.reference.target:
                raise ValueError("the reference has another target: give the target or the reference, not both")
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
        """The process of the model, if any."""
        return None if self.model is None else self.model.sde

    def seen(self, x: Tensor) -> Tensor:
        """Data events ``x`` in the units and dtype of the model."""
        return (x if self.units is None else self.units.encode(x)).to(self.dtype or self.samples.dtype)

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact sample set, like ``samples``."""
        if self.reference is None:
            raise ValueError("no exact target to draw from: give target or reference")
        return self.reference.exact(which).to(self.samples)

    def gathered(self) -> Tensor:
        """The samples of all processes."""
        return self.samples if self.processes is None else self.processes.gather(self.samples)


class Evaluator(ABC):
    """A metric of samples, or of the model or sampler that draws them; ``needs`` names required evidence."""

    judges: ClassVar[Literal["samples", "model"]] = "samples"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    unit: ClassVar[str] = ""
    better: ClassVar[Better] = "lower"

    def skip(self, evidence: Evidence) -> str | None:
        """Why this metric cannot be computed from ``evidence``, or None."""
        missing = [need for need in sorted(self.needs) if getattr(evidence, need) is None]
        return f"{type(self).__name__} needs {' and '.join(missing)}" if missing else None

    def metric(self, name: str, found: Estimate, floor: Estimate | None = None, **details: Any) -> Metric:
        """A metric with the unit and direction of this evaluator."""
        low = (None, None, math.inf) if floor is None else (floor.value, floor.stderr, floor.df)
        unit, better = self.unit, self.better
        return Metric(name, found.value, found.stderr, low[0], low[1], unit, better, details, found.df, low[2])

    def prepare(self) -> None:
        """Open other inputs before any work starts, so that a missing file is an error here."""
        return

    def reads(self, evidence: Evidence) -> Sequence[tuple[Any, Any]]:
        """The features that :meth:`evaluate` reads, as pairs of an extraction and a set of events.

        ``scoresde evaluate`` extracts them beforehand, in batches that survive a kill, are divided among processes and
        are shared between evaluators. It calls this after :meth:`skip` and before sampling: the samples are blank.
        """
        return ()

    def depends_on(self, evidence: Evidence) -> Mapping[str, Any]:
        """Hidden inputs of the value, as plain data, tensors or components; a change makes it measured anew.

        Samples (blank in ``evidence``), target, parameters, files that these name, source and :meth:`reads` are known.
        """
        return {}

    @abstractmethod
    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """The metrics of ``evidence.samples``, usually one."""
