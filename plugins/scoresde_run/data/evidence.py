"""Evidence: samples, what is known of their origin, and the truth to compare them with, a target or a data set."""

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Sampler, ScoreModel, Target
from scoresde_core.noise import key
from ..machine.processes import Processes
from .units import Units

T = TypeVar("T")


@attrs.define(eq=False)
class _Cache:
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
class Observed(_Cache):
    """What samples are given: of K ``events`` (K, *shape), in data units, what is ``known`` in units of the model."""

    events: Tensor
    known: Any


@attrs.define(eq=False)
class Evidence(_Cache):
    """What to evaluate: samples (B, *shape) and, if known, their truth, model and sampler.

    Samples and truth are in units of the data, images on [-1, 1]. The model has its own ``units`` (None: those of the
    data) and ``dtype`` (None: that of the samples); :meth:`seen` converts events for it. ``reference`` replaces
    ``target`` and ``seed`` to share a reference. With ``processes``, ``samples`` are this process's share, in order of
    rank; every process evaluates and gets the same result about all samples. Under ``observed``, samples are K sets of
    equal size, each given one of its observations, in their order.
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
    observed: Observed | None = None
    count: int = attrs.field(default=0, init=False)
    """The number of all samples."""

    def __attrs_post_init__(self) -> None:
        self.count = len(self.samples)
        if (processes := self.processes) is not None:
            self.count = int(processes.total(torch.tensor(self.count, device=processes.device)))
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

    @property
    def density(self) -> Target | None:
        """The target, if its events have a density without noise."""
        return None if self.target is None or self.target.discrete else self.target

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
