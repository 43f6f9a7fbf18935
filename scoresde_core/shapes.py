"""Broadcasting of one value per row against a batch of any rank, and the updates that sampling loops use.

Coefficients are floats, tensors that broadcast against the state, or matrices of coupled variables, which multiply a
state from the left; an update with the first two allocates at most once.
"""

from typing import Any

import torch
from torch import Tensor

NUMBER = (float, int)
"""Coefficients that are one number; a tuple, because a union is made anew at every test of a type."""
_ENTRIES = (float, int, Tensor)


def expand(value: Tensor, x: Tensor) -> Tensor:
    """``value`` (B,) or () reshaped to broadcast against ``x`` (B, ...)."""
    return value if value.ndim in (0, x.ndim) else value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def per_row(value: Any, x: Tensor) -> Tensor:
    """``value``, one for the batch or one per row, as (B,) of the dtype and device of ``x`` (B, ...).

    A number is filled in on the device, as copying it would make the host wait. The result is always contiguous, as
    another layout would trigger recompilation.
    """
    if isinstance(value, Tensor) and (value.ndim or value.device == x.device):
        return value.to(x).reshape(-1).expand(len(x)).contiguous()
    return torch.full((len(x),), float(value), dtype=x.dtype, device=x.device)


def shift(x: Tensor, b: Any, y: Tensor) -> Tensor:
    """x + b y."""
    if isinstance(b, Tensor):
        return torch.addcmul(x, y, b.to(x.dtype))
    return torch.add(x, y, alpha=b) if isinstance(b, NUMBER) else x + b * y


def solve(a: Any, x: Any) -> Any:
    """a^-1 x: x / a for numbers; a coefficient that is a matrix has this as its method ``solve``."""
    return x / a if isinstance(a, _ENTRIES) else a.solve(x)


def diffuse(mean: Tensor, std: Any, z: Tensor) -> Tensor:
    """mean + std z, in place in the fresh noise ``z``: at these sizes an allocation costs more than the sum."""
    return z.mul_(std).add_(mean) if isinstance(std, _ENTRIES) else mean + std * z


def combine(a: Any, x: Tensor, b: Any, y: Tensor) -> Tensor:
    """a x + b y."""
    out: Tensor = x * a if isinstance(a, NUMBER) else (a.to(x.dtype) if isinstance(a, Tensor) else a) * x
    if isinstance(b, Tensor):
        return out.addcmul_(y, b.to(out.dtype))
    return out.add_(y, alpha=b) if isinstance(b, NUMBER) else out.add_(b * y)
