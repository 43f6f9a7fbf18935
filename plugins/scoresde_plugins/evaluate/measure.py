"""Measures: computed in batches, then summarised in a row. Batch k is a function of weights, settings and k alone.

The number of a batch determines its process, whichever batches are finished already. A failure of one process is sent
to all, so none waits for another that is gone. A finished batch is a file, which appears whole or not at all:

    parts/likelihood-3f2a...9c/about.json           format, version, settings of the measure
    parts/likelihood-3f2a...9c/000012.safetensors   tensors of batch 12, and its record as JSON in the header

The name of a folder has a hash of everything that its numbers depend on: weights, model, settings of the measure,
device and versions. Other settings go to another folder; nothing is mixed or replaced.
"""

import json
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import torch
from safetensors import SafetensorError
from torch import Tensor
from scoresde_core import FileError, Metric, Observer, ScoreModel, ScoreSDEError, UsageError
from scoresde_core.plugins import one_line
from scoresde_run.commands.events import subset, take
from scoresde_run.data.dataset import Dataset, Events, content_hash
from scoresde_run.machine import files
from scoresde_run.machine.device import keep_freed_memory, use_tf32
from scoresde_run.machine.processes import Processes, joined
from scoresde_run.machine.progress import Progress
from scoresde_run.results.digests import digest
from scoresde_run.results.fingerprint import Fingerprint, placeless
from scoresde_run.results.results import Row
from ..evaluators.comparison import mean_of
from ..tensor_file import Format

FORMAT = Format("scoresde-evaluation-part", 1, "part of an evaluation")
ABOUT = "about.json"
T = TypeVar("T")
_UNREADABLE = (FileError, SafetensorError, OSError, KeyError, ValueError)


@attrs.frozen(eq=False)
class Part:
    """The result of a batch: tensors on the CPU, and plain data."""

    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    record: dict[str, Any] = attrs.field(factory=dict)


class Parts:
    """The batches of one measure of one model, below ``folder``."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        about = {"format": FORMAT.name, "version": FORMAT.version, "measure": name, **settings}
        text = json.dumps(about, sort_keys=True)
        self.folder = folder / f"{name}-{digest(text.encode())}"
        self._about = json.dumps(json.loads(text), indent=1) + "\n"

    def has(self, k: int) -> bool:
        """Whether batch ``k`` is finished, and its file as it was written."""
        with suppress(*_UNREADABLE):
            FORMAT.read(self._path(k))
            return True
        return False

    def save(self, k: int, part: Part) -> None:
        """Write batch ``k``."""
        if not (self.folder / ABOUT).exists():
            files.write(self.folder / ABOUT, self._about)
        FORMAT.write(self._path(k), part.tensors, {"record": json.dumps(part.record)})

    def load(self, k: int) -> Part:
        """Read batch ``k``, which must be finished."""
        try:
            tensors, about = FORMAT.read(self._path(k))
            return Part(tensors, json.loads(about["record"]))
        except _UNREADABLE as error:
            raise FileError(f"cannot read {self._path(k)}: {error}; remove it and repeat the command") from error

    def all(self, count: int) -> Iterator[Part]:
        """Read the batches 0 .. ``count`` - 1, one after another."""
        return map(self.load, range(count))

    def _path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.safetensors"


@attrs.frozen(eq=False)
class MeasuredModel:
    """A model to measure: its score on a device, its dependencies, and the folder of its parts."""

    score: ScoreModel
    device: torch.device
    dtype: torch.dtype
    identity: Mapping[str, Any]  # weights, network, SDE and their dependencies, as plain data
    folder: Path
    observe: Observer | None = None

    def parts_of(self, measure: "Measure") -> Parts:
        """The batches of ``measure``; those of a reference do not depend on the model."""
        about = dict(self.identity) if measure.of_model else {}
        about |= {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}
        return Parts(self.folder, measure.name, {"model": about, "settings": measure.settings})


@attrs.frozen(eq=False)
class Measure(ABC):
    """One quantity that is measured of a model."""

    name: ClassVar[str]
    stated: ClassVar[Sequence[str]] = ()  # the fields of :attr:`protocol`

    fingerprint: Fingerprint = attrs.field(kw_only=True)
    parts: tuple[Any, ...] = attrs.field(kw_only=True)  # the components that it uses besides the model

    @property
    def title(self) -> str:
        """Its unique name in a row."""
        return self.name

    @property
    def of_model(self) -> bool:
        """Whether the numbers depend on the model."""
        return True

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of batches."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on besides the model and :attr:`parts`, as plain data."""
        return {name: self.fingerprint.describe(getattr(self, name)) for name in self.stated}

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol, and the versions, source and files of the components."""
        return {**self.protocol, **placeless(self.fingerprint.depends(self.parts))}

    @abstractmethod
    def measure(self, k: int, model: MeasuredModel) -> Part:
        """Measure batch ``k``; unless its record says how many seconds that took, they are added."""

    @abstractmethod
    def summarise(self, parts: Sequence[Part]) -> Row:
        """What all batches add to a row."""

    def found(self, metrics: Sequence[Metric], parts: Sequence[Part], **cost: Any) -> Row:
        """Metrics in the form of a row, and their cost."""
        cost["seconds"] = sum(float(part.record["seconds"]) for part in parts)
        return {"metrics": {m.name: m.plain() for m in metrics}, "costs": {self.title: cost}}


class Share:
    """``count`` of ``events`` (None: all), spread evenly, in batches; ``source`` names them in the settings."""

    def __init__(self, events: Events, count: int | None, batch_size: int, source: Mapping[str, Any]) -> None:
        self.events, self.batch_size, self.indices = events, batch_size, subset(len(events), count)
        self.known: Mapping[str, Tensor] = {}
        self.source, self.count = dict(source), -(-len(self.indices) // batch_size)
        if isinstance(events, Tensor):
            chosen = events if len(self.indices) == len(events) else take(events, self.indices)
            self.source["hash"] = content_hash(chosen)

    def tell(self, known: Mapping[str, Tensor]) -> None:
        """Add what is known of the events, one row each, in their order."""
        self.known = known
        self.source |= {"known": {name: content_hash(value) for name, value in known.items()}} if known else {}

    def told(self, score: ScoreModel, k: int) -> ScoreModel:
        """``score`` with what is known of batch ``k``."""
        rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
        return score.given(**{name: value[rows] for name, value in self.known.items()}) if self.known else score

    def unread(self, dataset: Dataset | None) -> Dataset | None:
        """The data set if the events have no hash, so that its source and files identify them; else None."""
        return None if "hash" in self.source else dataset

    @property
    def settings(self) -> dict[str, Any]:
        """What the events of each batch depend on."""
        return {**self.source, "of": len(self.events), "events": len(self.indices), "batch_size": self.batch_size}

    def batch(self, k: int) -> tuple[int, Tensor]:
        """The position of the first event of batch ``k``, and its events (n, ...) as stored."""
        first = k * self.batch_size
        return first, take(self.events, self.indices[first : first + self.batch_size])


@attrs.frozen(eq=False)
class EventMeasure(Measure):
    """A measure of the events of a :class:`Share`."""

    share: Share

    @property
    def count(self) -> int:
        return self.share.count

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, **self.share.settings}


def mean(name: str, values: Tensor, unit: str = "") -> Metric:
    """The mean of float64 ``values`` (n,) and its standard error."""
    found = mean_of(values)
    return Metric(name, found.value, found.stderr, unit=unit, df=found.df)


class Failed(ScoreSDEError):
    """The failure of a process; ``trace`` is its traceback."""

    trace = ""

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """Convert the exception being handled, its reason on one line."""
        full = isinstance(error, torch.OutOfMemoryError)
        found = cls(f"out of memory: lower --batch-size ({one_line(error)})" if full else one_line(error))
        found.trace = traceback.format_exc()
        return found


def run_together(device: str, prepare: Callable[[Processes, ExitStack], Callable[[], int]]) -> int:
    """Run what ``prepare`` returns in every process; all raise the same errors, which only process 0 reports."""
    keep_freed_memory()
    use_tf32(False)
    with ExitStack() as stack:
        try:
            return prepare(stack.enter_context(joined(device)), stack)()
        except (UsageError, FileError, Failed) as error:
            if os.environ.get("RANK", "0") == "0":
                raise
            raise SystemExit(error.exit_code) from error


def compute(
    measures: Sequence[Measure], model: MeasuredModel, processes: Processes, progress: Progress, name: str
) -> dict[str, Failed]:
    """Compute the batches that do not exist yet; return failures by title. ``name`` is that of the model."""
    batches = [(measure, k) for measure in measures for k in range(measure.count)]
    failed: dict[str, Failed] = {}
    for measure, k in batches[processes.rank :: processes.count]:
        if measure.title in failed:
            continue
        progress.batch(f"{name}: {measure.title}", k, measure.count)
        parts = model.parts_of(measure)
        try:
            if not parts.has(k):
                started = time.perf_counter()
                part = measure.measure(k, model)
                part.record.setdefault("seconds", time.perf_counter() - started)
                parts.save(k, part)
        except Exception as error:
            failed[measure.title] = Failed.of(error)
    return {title: failure for found in reversed(processes.exchange(failed)) for title, failure in found.items()}


def together(processes: Processes, work: Callable[[], T]) -> T:
    """Call ``work()`` in every process; if one fails, all raise :class:`Failed` with its reason."""
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = Failed.of(error)
    for found in processes.exchange(failure):
        if found is not None:
            raise found
    return result  # type: ignore[return-value]
