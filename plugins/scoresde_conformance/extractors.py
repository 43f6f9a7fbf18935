"""Extractors: an event's features do not depend on its batch, and plain data describe them."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor
from scoresde_core import FileError, UsageError, parameters
from scoresde_run import Extractor, Features
from .candidate import Candidate, first_accepted
from .expect import agree, is_like, or_skip

SHAPES = ((1, 28, 28), (3, 32, 32), (1, 32, 32), (3, 64, 64), (2,), (5, 4))


def _opened(candidate: Candidate) -> tuple[Callable[[Tensor], Features], Tensor]:
    """Return the loaded extractor and five events; skip an extractor without its weights."""
    extractor: Extractor = candidate.component
    extract = or_skip(lambda: extractor.load(torch.device("cpu")))
    events = torch.randint(0, 256, (5, *first_accepted(SHAPES, extractor.skip)), dtype=torch.uint8)
    return extract, events if extractor.images else events / 127.5 - 1


def says_what_it_reads(candidate: Candidate) -> None:
    """It has a name, and gives a reason for every shape that it refuses."""
    extractor: Extractor = candidate.component
    assert extractor.name, "it has no name, which the names of metrics on its features need"
    for shape in SHAPES:
        reason = extractor.skip(shape)
        assert reason is None or reason.strip(), f"it refuses events of shape {shape} without a reason"


def gives_a_row_for_every_event(candidate: Candidate) -> None:
    """Features are finite float32 (B, D), and logits, if any, (B, K)."""
    extract, events = _opened(candidate)
    found = extract(events)
    for what, values in (("features", found.pooled), ("logits", found.logits)):
        if values is not None:
            is_like(f"the matrix of {what}", values, (len(events), values.shape[-1]), torch.float32)


def does_not_depend_on_the_batch(candidate: Candidate) -> None:
    """An event has the same features alone and in a batch, up to rounding."""
    extract, events = _opened(candidate)
    together, alone = extract(events).pooled, torch.cat([extract(event[None]).pooled for event in events])
    size = together.abs().max().clamp_min(1e-12)
    agree(alone / size, together / size, 1e-4, "relative to the largest, features alone and in a batch differ by")


def is_described_by_plain_data(candidate: Candidate) -> None:
    """Its protocol is JSON and names it."""
    _opened(candidate)
    protocol = dict(candidate.component.protocol())
    assert json.loads(json.dumps(protocol)) == protocol, f"the protocol {protocol} is not plain data"
    assert protocol.get("extractor"), f"the protocol {protocol} does not say 'extractor'"


def _others(candidate: Candidate) -> Iterator[tuple[str, Extractor]]:
    """Yield its variants, and one for each numeric parameter with another value."""
    yield from candidate.variants()[1:]
    for parameter in parameters(candidate.cls):
        value = getattr(candidate.component, parameter.name)
        if parameter.type in (int, float) and parameter.name not in candidate.params:
            with suppress(UsageError):
                change = {parameter.name: 2 * value + 1}
                yield f"{candidate.name}[{parameter.name}={2 * value + 1}]", candidate.build(**change)


def protocol_tells_parameters(candidate: Candidate) -> None:
    """If another value of a parameter gives other features, it gives another protocol."""
    extract, events = _opened(candidate)
    own = extract(events).pooled
    for label, other in _others(candidate):
        if dict(other.protocol()) == dict(candidate.component.protocol()):
            with suppress(FileError):  # missing weights
                found = other.load(torch.device("cpu"))(events).pooled
                same = found.shape == own.shape and torch.allclose(found, own, rtol=1e-5, atol=1e-7)
                assert same, f"{label} gives other features than {candidate.name}, and their protocols are the same"
