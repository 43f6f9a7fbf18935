r"""Batches: a data set as an endless stream whose k-th batch is a function of (seed, k) alone.

Epoch e visits the events in a permutation drawn from (seed, e). The concatenated permutations form the stream; batch k
is its rows kB .. (k + 1)B, and process r of W takes the r-th of W equal shares of them. So every event occurs once per
epoch for any B, a run resumes at any k without replaying, and the number of processes changes nothing.

Small sets are kept on the device as uint8 and indexed there; large ones are decoded by worker processes.
"""

import itertools
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import Draws, ScoreSDEError, UsageError, param
from scoresde_core.noise import key
from .dataset import STORED, Dataset, Events, Split, rows
from .units import Units

RESIDENT_BYTES = 2**30  # the largest split that is kept on the device by default; CIFAR-10 takes 0.15 of it


@attrs.frozen
class Preprocessing(Units):
    """Converts stored events to a model's units, and back, with random mirroring and dequantisation.

    Grey level v of 0 .. 255 becomes v / 255, or under ``dequantise`` (v + u) / 256 with u uniform on [0, 1);
    ``centered`` maps [0, 1] to [-1, 1]. Published: centered for VP and sub-VP, [0, 1] for VE.
    """

    flip: bool = param(False, "mirror half of the images from left to right, with what is known of them")
    dequantise: bool = param(False, "add uniform noise of one grey level, for likelihoods")

    def __call__(self, events: Tensor, draws: Draws | None = None) -> Tensor:
        """Convert ``events`` (B, ...) to float32; without ``draws`` nothing is random: no flip, and u = 1/2."""
        x = self.augment(events, draws)
        u: Tensor | float | None = None
        if self.dequantise and not x.is_floating_point():
            u = 0.5 if draws is None else draws.uniform("dequantise", shape=tuple(x.shape[1:])).float()
        return self.encode(x, u).float()

    def augment(self, events: Tensor, draws: Draws | None = None) -> Tensor:
        """Mirror some of the stored ``events`` (B, ...), chosen by ``draws``."""
        if self.flip and events.is_floating_point():
            given = f"events of shape {tuple(events.shape[1:])} are floats"
            raise UsageError(f"{given}, which may have no mirror images: set data.random_flip=false")
        return mirrored(events, draws) if self.flip and draws is not None else events

    def to_images(self, x: Tensor) -> Tensor:
        """Grey levels of model values: a dequantised one is a bin [v, v + 1) / 256, any other a point v / 255."""
        return self.images(x, "bins" if self.dequantise else "nearest")


def mirrored(values: Tensor, draws: Draws) -> Tensor:
    """Mirror each row of ``values`` (B, ..., W) along the last axis with probability 1/2, by the row's ``draws``."""
    chosen = draws.uniform("flip", shape=(1,) * (values.ndim - 1)) < 0.5
    return torch.where(chosen, values.flip(-1), values)


@attrs.frozen(eq=False)
class Batch:
    """Events ``x`` (B, *shape) in a model's units, and what is ``known`` of them, such as ``labels`` (B,)."""

    x: Tensor
    known: Mapping[str, Tensor] = attrs.field(factory=dict)

    def parts(self, count: int) -> "Iterator[Batch]":
        """Split this batch into ``count`` parts."""
        known = {name: values.chunk(count) for name, values in self.known.items()}
        for k, x in enumerate(self.x.chunk(count)):
            yield Batch(x, {name: parts[k] for name, parts in known.items()})


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, size: int) -> Tensor:
    """The permutation of ``size`` events in an epoch, int64 on the CPU; a batch may lie in two."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(key(seed, "order", epoch)))


def chosen(seed: int, size: int, start: int, stop: int) -> Tensor:
    """The indices at the positions ``start`` to ``stop`` of the stream of ``size`` events."""
    parts: list[Tensor] = []
    while start < stop:
        epoch, offset = divmod(start, size)
        parts.append(order(seed, epoch, size)[offset : offset + stop - start])
        start += len(parts[-1])
    return torch.cat(parts)


class Batches:
    """Batches of a split in a model's units: :meth:`stream` without end, :meth:`once` in the stored order.

    ``batch_size`` is that of all processes together; this process, ``rank`` of ``world``, gets its share of each batch.
    ``needs`` names the known values that batches contain (:meth:`~scoresde_run.data.dataset.Dataset.known`); those of
    the shape of an event are converted like it. ``resident=None`` decides by size whether data stay on the device;
    ``workers`` processes decode others (0: this process does).
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, *, split: Split = "train", seed: int = 0,
        preprocessing: Preprocessing | None = None, needs: tuple[str, ...] = (),
        rank: int = 0, world: int = 1, device: torch.device | str = "cpu",
        resident: bool | None = None, workers: int = 4,
    ) -> None:  # fmt: skip
        if batch_size < 1 or batch_size % world:
            given = f"a batch of {batch_size} does not divide among {world} processes"
            raise UsageError(f"{given}: choose a multiple of {world}")
        self.preprocessing = preprocessing or Preprocessing()
        self.seed, self.batch_size, self.device, self.workers = seed, batch_size, torch.device(device), workers
        self.start, self.count = rank * (batch_size // world), batch_size // world
        self.known = self._known(dataset, split, needs)
        self.mirrors = self._mirrors(dataset) if self.preprocessing.flip else frozenset()
        self.shape, self.events = dataset.shape, dataset.open(split)
        loaded = self.events if isinstance(self.events, Tensor) else None
        width = (4 if dataset.levels in (None, 65536) else 1) if loaded is None else loaded.element_size()
        fits = len(self.events) * math.prod(self.shape) * width <= RESIDENT_BYTES
        self.resident = fits if resident is None else resident
        if self.resident:
            self.events = (dataset.load(split) if loaded is None else loaded).to(self.device)
        # Known only after loading, which leaves out broken files.
        self.size = len(self.events)
        if not self.size:
            raise UsageError(f"the {split} split of {dataset} is empty")
        for name, values in self.known.items():
            if len(values) != self.size:
                raise UsageError(f"{dataset} has {self.size} events in its {split} split, but {len(values)} {name}")

    def _known(self, dataset: Dataset, split: Split, needs: tuple[str, ...]) -> dict[str, Tensor]:
        found = dataset.known(split) if needs else {}
        # A class is called labels by data sets, whose names a loss uses.
        stored = {name: name if name in found else STORED.get(name, name) for name in needs}
        if missing := ", ".join(name for name, own in stored.items() if own not in found):
            raise UsageError(f"{dataset} has no {missing}, which training needs: choose another data set or network")
        return {name: found[own].to(self.device) for name, own in stored.items()}

    def _mirrors(self, dataset: Dataset) -> frozenset[str]:
        """The known values that are mirrored with the events: those declared, else those with the same pixels."""
        declared, found = dict(dataset.mirrors), set()
        declared |= {name: declared[own] for name, own in STORED.items() if own in declared}
        for name, values in self.known.items():
            covers = values.ndim > 2 and values.shape[-2:] == dataset.shape[-2:]
            if name not in declared and not covers:
                silent = f"does not say whether {name} {tuple(values.shape[1:])} is mirrored with its events"
                remedy = f"or give its class mirrors = {{{name!r}: False}} (True: mirrored too)"
                raise UsageError(f"{dataset} {silent}: set data.random_flip=false, {remedy}")
            if declared.get(name, covers):
                found.add(name)
        return frozenset(found)

    def draws(self, k: int | str, count: int, row: int = 0) -> Draws:
        """The random numbers of ``count`` of this process's rows of batch ``k``, from ``row`` on, also of the loss."""
        return Draws(self.seed, k, count, start=self.start + row, total=self.batch_size, device=self.device)

    def indices(self, k: int) -> Tensor:
        """The indices (count,) of this process's events in batch ``k``."""
        first = k * self.batch_size + self.start
        return chosen(self.seed, self.size, first, first + self.count)

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Yield this process's share of batch ``start``, ``start`` + 1, ... without end, float32 on the device."""
        for k, events in enumerate(self._fetch(map(self.indices, itertools.count(start))), start):
            yield self._batch(events, self.indices(k), self.draws(k, self.count))

    def once(self) -> Iterator[Batch]:
        """Yield this process's share of one pass in the stored order; the last batch may be short."""
        starts = range(self.start, self.size, self.batch_size)
        rows = [torch.arange(first, min(first + self.count, self.size)) for first in starts]
        for number, events in enumerate(self._fetch(iter(rows))):
            yield self._batch(events, rows[number], self.draws(f"pass {number}", len(events)))

    def _batch(self, events: Tensor, indices: Tensor, draws: Draws) -> Batch:
        """Convert stored events and known values for a model; both are mirrored alike."""
        known = {name: values[self._moved(indices)] for name, values in self.known.items()}
        known |= {name: mirrored(known[name], draws) for name in self.mirrors}
        known = {name: self.preprocessing.beside(values, self.shape) for name, values in known.items()}
        return Batch(self.preprocessing(events, draws), known)

    def _fetch(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        if isinstance(self.events, Tensor) and self.resident:
            for indices in batches:
                yield self.events[self._moved(indices)]
            return
        how: dict[str, Any] = {"sampler": (indices.tolist() for indices in batches), "batch_size": None}
        how |= {"num_workers": self.workers, "worker_init_fn": _obey_the_parent}
        # Seeds the workers, without torch's global generator.
        how["generator"] = torch.Generator().manual_seed(key(self.seed, "workers"))
        for batch in torch.utils.data.DataLoader(_Fetched(self.events), pin_memory=self.device.type == "cuda", **how):
            if isinstance(batch, ScoreSDEError):
                raise batch
            yield batch.to(self.device, non_blocking=True)

    def _moved(self, indices: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return indices.pin_memory().to(self.device, non_blocking=True)
        return indices.to(self.device)


@attrs.frozen(eq=False, slots=False)
class _Fetched(torch.utils.data.Dataset[Any]):
    """Batches of events, with our errors as values, because a worker would wrap them in its traceback."""

    events: Events

    def __getitem__(self, indices: Sequence[int]) -> Tensor | ScoreSDEError:
        try:
            return rows(self.events, indices)
        except ScoreSDEError as error:
            return error


def _obey_the_parent(worker: int) -> None:
    """Ignore SIGINT, and SIGTERM unless the parent sends it, which handles the group's and may need a batch."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
