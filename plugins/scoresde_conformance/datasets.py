"""Data sets: the same events each time, of the declared shape, loaded at once or opened one by one."""

import pickle
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor
from scoresde_run import Dataset, Events, Split
from .candidate import Candidate, Skip
from .expect import or_skip

SPLITS: tuple[Split, ...] = get_args(Split)
LEVELS = {torch.uint8: 256, torch.int32: 65_536, torch.float32: None}
"""The number of grey levels for each type of events."""
MOST, MOST_QUICK = 100_000, 2_000
"""The largest split that is loaded completely if events are decoded one by one."""


def _opened(candidate: Candidate, split: Split) -> Events:
    dataset: Dataset = candidate.component
    return candidate.once(("open", split), lambda: or_skip(lambda: dataset.open(split)))


def _loaded(candidate: Candidate, split: Split) -> Tensor:
    """Return all events of a split; :class:`Skip` if decoding them would take long."""
    events, most = _opened(candidate, split), MOST if candidate.full else MOST_QUICK
    if not isinstance(events, Tensor) and len(events) > most:
        raise Skip(f"its {split} split has {len(events)} events to decode, more than {most}")
    dataset: Dataset = candidate.component
    return candidate.once(("load", split), lambda: or_skip(lambda: dataset.load(split)))


def _ends(candidate: Candidate) -> Iterator[tuple[Split, Tensor]]:
    for split in SPLITS:
        events = _opened(candidate, split)
        assert len(events), f"the {split} split is empty"
        yield from ((split, events[k]) for k in (0, len(events) - 1))


def tells_its_shape(candidate: Candidate) -> None:
    """``shape`` is a tuple of positive sizes."""
    shape = or_skip(lambda: candidate.component.shape)
    assert isinstance(shape, tuple), f"shape is {shape!r}, expected a tuple of sizes"
    assert all(isinstance(size, int) and size > 0 for size in shape), f"shape is {shape}, expected positive sizes"


def has_events_of_its_shape(candidate: Candidate) -> None:
    """Both splits have events of this shape: uint8, int32 (16 bits) or finite float32."""
    shape = or_skip(lambda: candidate.component.shape)
    for split, event in _ends(candidate):
        assert tuple(event.shape) == shape, f"an event of {split} has shape {tuple(event.shape)}, but shape is {shape}"
        assert event.dtype in LEVELS, f"events are {event.dtype}, expected uint8, int32 or float32"
        assert bool(event.isfinite().all()), f"an event of {split} is not finite"


def tells_its_levels(candidate: Candidate) -> None:
    """``levels``, unless it is "auto", matches the events: 256, 65536, or None for floats."""
    told = or_skip(lambda: candidate.component.levels)
    for split, event in _ends(candidate):
        levels = LEVELS[event.dtype]
        assert told in ("auto", levels), f"levels is {told}, but events of {split} are {event.dtype}"
        inside = levels is None or 0 <= int(event.min()) <= int(event.max()) < levels
        assert inside, f"an event of {split} has values from {int(event.min())} to {int(event.max())}"


def opens_what_it_loads(candidate: Candidate) -> None:
    """``open`` gives the events of ``load`` by index, also after pickling."""
    for split in SPLITS:
        events, loaded = _opened(candidate, split), _loaded(candidate, split)
        assert len(events) == len(loaded), f"open has {len(events)} events of {split}, load {len(loaded)}"
        copy: Events = pickle.loads(pickle.dumps(events)) if len(loaded) <= MOST_QUICK else events
        for k in sorted({0, len(loaded) // 2, len(loaded) - 1}):
            assert torch.equal(copy[k], loaded[k]), f"event {k} of {split} differs between open and load"


def repeats_itself(candidate: Candidate) -> None:
    """``load`` gives the same events in the same order every time."""
    for split in SPLITS:
        first = _loaded(candidate, split)
        torch.rand(1)  # changes the state of torch's generator
        again = candidate.component.load(split)
        assert torch.equal(first, again), f"load gives other events of {split} the second time"


def keeps_its_splits_apart(candidate: Candidate) -> None:
    """At most half of the events of the test split are also in the train split."""
    train = {event.numpy().tobytes() for event in _loaded(candidate, "train")}
    test = [event.numpy().tobytes() in train for event in _loaded(candidate, "test")[:1000]]
    assert sum(test) <= len(test) / 2, f"{sum(test)} of the first {len(test)} events of test are also in train"


def knows_a_row_an_event(candidate: Candidate) -> None:
    """``known`` has a row for each event of a split; labels are integers from 0."""
    for split in SPLITS:
        count = len(_opened(candidate, split))
        known = candidate.component.known(split)
        for name, values in known.items():
            assert len(values) == count, f"known has {len(values)} {name} of {split}, which has {count} events"
        labels = known.get("labels")
        if labels is not None:
            assert labels.dtype == torch.int64, f"labels are {labels.dtype}, expected torch.int64"
            assert int(labels.min()) >= 0, f"labels begin at {int(labels.min())}, expected 0"
