"""What a command is told of samples: ``--known class=[3,8]``, ``--known y=noisy.npz``, ``--known class=data``.

NAME=3, NAME=[3,8]     a class, or classes that are cycled over the samples
NAME=FILE.npz          the rows of an array in a file, cycled over the samples; integers are grey levels
NAME=data              what the data set knows of the events that the command reads
NAME=DATASET           the events of a data set, cycled
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from scoresde_core import ScoreModel, UsageError, near_misses, parse_value
from ..data.dataset import STORED, Dataset
from ..models.known import check, wanted
from .events import find_events, open_events, read_events, take
from .opened import OpenedModel


def tell(opened: OpenedModel, n: int) -> ScoreModel:
    """The opened score with what ``--known`` says of ``n`` samples, checked; classes and rows are cycled."""
    return bound(opened, _read(opened.arguments.known, n, opened))


def tell_of_events(opened: OpenedModel, indices: Sequence[int]) -> dict[str, Tensor]:
    """What ``--known`` says of the events ``indices`` of the command's data set: one row an event."""
    arguments = opened.arguments
    rows = _read([text for text in arguments.known if not text.endswith("=data")], len(indices), opened)
    for name in (text.removesuffix("=data") for text in arguments.known if text.endswith("=data")):
        value = known_of(find_events(arguments.dataset, opened), name, arguments.split)
        rows[name] = opened.units.beside(value[torch.as_tensor(list(indices))], opened.shape)
    return rows


def bound(opened: OpenedModel, known: Mapping[str, Tensor]) -> ScoreModel:
    """The opened score that knows ``known``, one row a sample, checked."""
    if not known:
        return opened.score
    check(opened.score, known, "--known")
    return opened.score.given(**{name: value.to(opened.device) for name, value in known.items()})


def known_of(dataset: Dataset | None, name: str, split: Any) -> Tensor:
    """What a data set knows of its events under ``name``."""
    found = {} if dataset is None else dataset.known(split)
    stored = name if name in found else STORED.get(name, name)
    if stored not in found:
        usable = f": it knows {', '.join(found)}" if found else ""
        raise UsageError(f"the data set knows no {name} of its events{usable}; type the values, --known {name}=...")
    return found[stored]


def read_classes(texts: Sequence[str], score: ScoreModel) -> dict[str, Tensor]:
    """The classes that ``texts`` type, checked; other values are a :class:`UsageError`."""
    named = dict(text.partition("=")[::2] for text in texts)
    if odd := [name for name in named if not isinstance(wanted(score).get(name), int)]:
        raise UsageError(f"--known {odd[0]} must be classes that the model takes, such as class=[3,8]")
    found = {name: _classes(name, value) for name, value in named.items()}
    check(score, found, "--known")
    return found


def _read(texts: Sequence[str], n: int, opened: OpenedModel) -> dict[str, Tensor]:
    """The tensors that ``texts`` name, their rows cycled over ``n`` samples."""
    takes: Mapping[str, Any] = wanted(opened.score)
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"--known {text!r} must be NAME=VALUE, such as class=[3,8] or y=noisy.npz")
        if name not in takes:
            words = near_misses(name, list(takes)) if takes else " It takes nothing."
            raise UsageError(f"the model takes nothing called {name!r}.{words}")
        if isinstance(takes[name], int):
            rows = _classes(name, value)
        elif (shape := takes[name]) != opened.shape:  # a picture of another size
            rows = opened.units.beside(read_events(Path(value), opened, shape), opened.shape)
        else:
            events = open_events(value, opened)
            if not len(events):
                raise UsageError(f"--known {text} has no rows")
            rows = opened.units.encode(take(events, range(len(events)))).float()
        found[name] = rows[torch.arange(n) % len(rows)]
    return found


def _classes(name: str, text: str) -> Tensor:
    value = parse_value(text)
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(one, bool) or not isinstance(one, int) for one in values):
        raise UsageError(f"--known {name} must be an integer or a list of integers, got {text!r}")
    return torch.tensor(values)
