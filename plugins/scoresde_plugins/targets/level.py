"""Noise levels as two floats, if the whole batch shares one, or as two columns, if each row has its own."""

from math import prod

import torch
from torch import Tensor
from scoresde_core import Level
from scoresde_core.shapes import per_row

Coefficient = float | Tensor
"""alpha or sigma: a float, or a float64 column (B, 1)."""


def coefficients(level: Level, x: Tensor) -> tuple[Coefficient, Coefficient]:
    """Return ``(alpha, sigma)`` of ``level`` for a batch ``x`` (B, ...): two floats, or two float64 columns (B, 1).

    The entries of a level are numbers, tensors of one element, or tensors of one value per row, (B,) or (B, 1, ...). A
    tensor of one element is read once, so that a cache can be keyed by its value.
    """
    values = level.alpha, level.sigma
    for value in values:
        if isinstance(value, Tensor) and value.numel() > 1 and not len(value) == value.numel() == len(x):
            raise ValueError(
                f"a noise level has one value or one per row: got shape {tuple(value.shape)} for a batch of {len(x)}"
            )
    if not any(isinstance(value, Tensor) and value.numel() > 1 for value in values):
        return float(level.alpha), float(level.sigma)
    like = x.new_empty(len(x), dtype=torch.float64)
    return per_row(level.alpha, like).unsqueeze(1), per_row(level.sigma, like).unsqueeze(1)


def events(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` (B, *shape) as (B, D); raise ValueError for any other shape."""
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"this target has events of shape {shape}, got a batch of shape {tuple(x.shape)}")
    return x.reshape(x.shape[0], prod(shape))
