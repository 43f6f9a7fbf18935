"""What is known of events: classes, images, observations; checked against what a model takes before any work.

``known`` maps names to tensors with one row an event. Data sets offer it (``Dataset.known``, where classes are called
``labels``), networks and processes take it by name, and a command types it. No class is -1, no tensor zeros.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from scoresde_core import ScoreModel, UsageError


def wanted(model: Any) -> dict[str, int | tuple[int, ...]]:
    """What a score model and its process know of an event: names with a number of classes, or the shape of a row."""
    if not isinstance(model, ScoreModel):
        return {}
    return {**dict.fromkeys(model.sde.needs, model.shape), **model.takes}


def check(model: ScoreModel, known: Mapping[str, Tensor], source: str) -> None:
    """Raise :class:`UsageError` for classes that ``model`` has not, for other shapes, and for values not finite."""
    for name, kind in wanted(model).items():
        if name not in known:
            continue
        value = known[name]
        if isinstance(kind, int):
            if value.ndim != 1 or value.is_floating_point():
                given = f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
                raise UsageError(f"{source}: {name} must be one integer an event, got {given}")
            low, high = (int(end) for end in value.aminmax())
            if low < -1 or high >= kind:
                wrong = high if high >= kind else low
                raise UsageError(f"{source}: there is no {name} {wrong}, the model has 0 to {kind - 1} (-1: none)")
        elif tuple(value.shape[1:]) != tuple(kind):
            rows = f"rows of shape {list(value.shape[1:])}"
            raise UsageError(f"{source}: {name} has {rows}, the model takes {list(kind)}")
        elif not bool(value.isfinite().all()):
            raise UsageError(f"{source}: {name} has values that are not finite")


def dropped(known: Mapping[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
    """``known`` with nothing in the rows that are not ``kept`` (B,), bool: class -1, or zeros."""
    return {
        name: value.where(kept.reshape(-1, *[1] * (value.ndim - 1)), 0 if value.is_floating_point() else -1)
        for name, value in known.items()
    }
