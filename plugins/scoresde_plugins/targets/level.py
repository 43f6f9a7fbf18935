"""Noise levels as two floats, if the whole batch shares one, or as two columns, if each row has its own."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from scoresde_core.sde import Level, Scalar

Coefficient = float | Tensor
"""alpha or sigma: a float, or a float64 column (B, 1)."""


def coefficients(level: Level, x: Tensor) -> tuple[Coefficient, Coefficient]:
    """Return ``(alpha, sigma)`` of ``level`` for a batch ``x`` (B, ...): two floats, or two float64 columns (B, 1).

    The entries of a level are numbers, tensors of one element, or tensors of one value per row, (B,) or (B, 1, ...). A
    tensor of one element is read once, so that a cache can be keyed by its value.
    """
    alpha, sigma = _read(level.alpha, x), _read(level.sigma, x)
    if isinstance(alpha, Tensor) or isinstance(sigma, Tensor):
        return _column(alpha, x), _column(sigma, x)
    return alpha, sigma


def events(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` (B, *shape) as (B, D); raise ValueError for any other shape."""
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"this target has events of shape {shape}, got a batch of shape {tuple(x.shape)}")
    return x.reshape(x.shape[0], prod(shape))


def _read(value: Scalar, x: Tensor) -> Coefficient:
    if not isinstance(value, Tensor):
        return float(value)
    if value.numel() == 1:
        return value.item()
    if value.numel() != len(x) or value.shape[0] != len(x):
        raise ValueError(
            f"a noise level has one value or one per row: got shape {tuple(value.shape)} for a batch of {len(x)}"
        )
    return value.reshape(-1, 1).to(x.device, torch.float64)


def _column(value: Coefficient, x: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((len(x), 1), value, dtype=torch.float64, device=x.device)
