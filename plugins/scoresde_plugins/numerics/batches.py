"""Batches of events, each with the score model of its rows."""

from collections.abc import Iterator

import torch
from torch import Tensor
from scoresde_core import ScoreModel


def in_batches(model: ScoreModel, x: Tensor, size: int | None) -> Iterator[tuple[int, ScoreModel, Tensor]]:
    """Batches of ``size`` (None: all) of ``x`` (n, ...): the index of the first event, the model, the events."""
    for start in range(0, len(x), size or len(x)):
        part = x[start : start + (size or len(x))]
        whole = len(part) == len(x)
        yield start, model if whole else model.select(torch.arange(start, start + len(part))), part
