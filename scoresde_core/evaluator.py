"""Evaluators: metrics from samples, each with its direction, unit, standard error and, where it has one, its floor.

The floor is what exact samples of the same size score: no sampler can be told apart from the truth below it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Literal, TypeVar

import attrs
import torch
from torch import Tensor

from .noise import key
from .score import ScoreModel
from .sde import SDE
from .target import Estimate, Target

Better = Literal["lower", "higher", "zero"]
T = TypeVar("T")


@attrs.frozen
class Metric:
    """A measured value; ``better`` says where the good end is (``zero``: nearest to 0)."""

    name: str
    value: float
    stderr: float
    floor: float | None = None
    floor_stderr: float | None = None
    unit: str = ""
    better: Better = "lower"


@attrs.define(eq=False)
class Reference:
    """The truth that samples are held against: a target, exact sets of ``size`` draws, and what follows from them.

    Everything is computed on first use, on ``device``, and kept, so cells with the same target, size and seed should
    share one reference. Cells that only have equal seeds get equal draws too: they cancel when cells are compared.
    """

    target: Target
    size: int
    seed: int = 0
    device: torch.device | str = "cpu"
    _kept: dict[Hashable, Any] = attrs.field(factory=dict, init=False, repr=False)

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact set (size, *shape): 0 is the reference, 1 plays the samples in a floor."""

        def draw() -> Tensor:
            return self.target.sample(self.size, seed=key(self.seed, "exact", which) % 2**31).to(self.device)

        return self.once(("exact", which), draw)

    @property
    def precise(self) -> Target:
        """The target on ``device``, answering in float64."""
        return self.once("precise", lambda: self.target.to(self.device, torch.float64))

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """``compute()`` at the first call with this ``name``, the kept result after that."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]  # type: ignore[no-any-return]


@attrs.define
class Evidence:
    """What there is to judge: samples (B, *shape), and the truth or the model behind them where known.

    A ``reference`` may be given in place of ``target`` and ``seed``, to share it; else it is made from them.
    """

    samples: Tensor
    seed: int = 0
    target: Target | None = None
    sde: SDE | None = None
    model: ScoreModel | None = None
    reference: Reference | None = None

    def __attrs_post_init__(self) -> None:
        if self.reference is not None:
            if self.target is not None and self.target is not self.reference.target:
                raise ValueError("the reference is of another target: leave the target out, or the reference")
            self.target, self.seed = self.reference.target, self.reference.seed
        elif self.target is not None:
            self.reference = Reference(self.target, len(self.samples), self.seed, self.samples.device)
        if self.reference is None or self.target is None:
            return
        expected = (self.reference.size, *self.target.shape)
        if tuple(self.samples.shape) != expected:
            raise ValueError(f"the samples have shape {tuple(self.samples.shape)}, the reference has {expected}")

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact sample set, as large as ``samples``, of their device and dtype."""
        if self.reference is None:
            raise ValueError("there is no exact target to draw from")
        return self.reference.exact(which).to(self.samples)


class Evaluator(ABC):
    """A metric of samples, or of the model itself."""

    judges: ClassVar[Literal["samples", "model"]] = "samples"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    unit: ClassVar[str] = ""
    better: ClassVar[Better] = "lower"

    def skip(self, evidence: Evidence) -> str | None:
        """Why this metric cannot be computed from ``evidence``, or None."""
        missing = [need for need in sorted(self.needs) if getattr(evidence, need) is None]
        return f"{type(self).__name__} needs {' and '.join(missing)}" if missing else None

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
        few = len(evidence.samples) < self.smallest
        return super().skip(evidence) or (
            f"{type(self).__name__} needs {self.smallest} samples or more, got {len(evidence.samples)}" if few else None
        )

    @abstractmethod
    def measure(self, samples: Tensor, reference: Reference) -> Estimate:
        """The metric of finite float64 ``samples`` (n, *shape) against ``reference``."""

    def evaluate(self, evidence: Evidence) -> list[Metric]:
        """The metric of ``evidence.samples``, and that of as many exact samples as its floor."""
        reason, reference = self.skip(evidence), evidence.reference
        if reason or reference is None:
            raise ValueError(reason or f"{type(self).__name__} needs target")
        floor = reference.once((self, "floor"), lambda: self.measure(reference.exact(1).double(), reference))
        samples = evidence.samples.to(reference.device, torch.float64)
        finite = bool(samples.isfinite().all())
        found = self.measure(samples, reference) if finite else Estimate(math.nan, math.nan)
        return [
            Metric(self.name, found.value, found.stderr, floor.value, floor.stderr, self.unit, self.better),
        ]
