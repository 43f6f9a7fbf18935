"""Evaluators: metrics from samples, each with its direction, unit, standard error and, where it has one, its floor.

The floor is what exact samples of the same size score: no sampler can be told apart from the truth below it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import attrs
from torch import Tensor

from .noise import key
from .score import ScoreModel
from .sde import SDE
from .target import Target

Better = Literal["lower", "higher", "zero"]


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


@attrs.define
class Evidence:
    """What there is to judge: samples (B, *shape), and the truth or the model behind them where known."""

    samples: Tensor
    seed: int = 0
    target: Target | None = None
    sde: SDE | None = None
    model: ScoreModel | None = None
    _exact: dict[int, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    def exact(self, which: int = 0) -> Tensor:
        """The ``which``-th independent exact sample set, as large as ``samples``, on their device."""
        if self.target is None:
            raise ValueError("there is no exact target to draw from")
        if which not in self._exact:
            drawn = self.target.sample(len(self.samples), seed=key(self.seed, "exact", which) % 2**31)
            self._exact[which] = drawn.to(self.samples)
        return self._exact[which]


class Evaluator(ABC):
    """A metric of samples."""

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
