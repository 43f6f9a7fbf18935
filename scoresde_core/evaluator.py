"""Evaluators: metrics from samples, each with a direction, unit, standard error and, for some, a floor.

The floor is the score of as many exact samples: below it no sampler can be told apart from the truth.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import attrs
from .estimate import Estimate

Better = Literal["lower", "higher", "zero"]
_Evidence: TypeAlias = Any
"""What a metric judges: ``samples`` (B, *shape) and, where known, their ``target``, ``model`` and ``sampler``."""


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


class Evaluator(ABC):
    """A metric of samples, or of the model or sampler that draws them; ``needs`` names required evidence."""

    judges: ClassVar[Literal["samples", "model"]] = "samples"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    unit: ClassVar[str] = ""
    better: ClassVar[Better] = "lower"

    def skip(self, evidence: _Evidence) -> str | None:
        """Why this metric cannot be computed from ``evidence``, or None."""
        missing = [need for need in sorted(self.needs, reverse=True) if getattr(evidence, need) is None]
        return f"{type(self).__name__} needs {' and '.join(missing)}" if missing else None

    def metric(self, name: str, found: Estimate, floor: Estimate | None = None, **details: Any) -> Metric:
        """A metric with the unit and direction of this evaluator."""
        low = (None, None, math.inf) if floor is None else (floor.value, floor.stderr, floor.df)
        unit, better = self.unit, self.better
        return Metric(name, found.value, found.stderr, low[0], low[1], unit, better, details, found.df, low[2])

    def prepare(self) -> None:
        """Open other inputs before any work starts, so that a missing file is an error here."""
        return

    def reads(self, evidence: _Evidence) -> Sequence[tuple[Any, Any]]:
        """The features that :meth:`evaluate` reads, as pairs of an extraction and a set of events.

        ``scoresde evaluate`` extracts them beforehand, in batches that survive a kill, are divided among processes and
        are shared between evaluators. It calls this after :meth:`skip` and before sampling: the samples are blank.
        """
        return ()

    def depends_on(self, evidence: _Evidence) -> Mapping[str, Any]:
        """Hidden inputs of the value, as plain data, tensors or components; a change makes it measured anew.

        Samples (blank in ``evidence``), target, parameters, files that these name, source and :meth:`reads` are known.
        """
        return {}

    @abstractmethod
    def evaluate(self, evidence: _Evidence) -> list[Metric]:
        """The metrics of ``evidence.samples``, usually one."""
