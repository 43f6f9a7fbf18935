"""Checks of drawn samples, before they count as a result."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

FAR, STRAY = 100.0, 1000.0  # the largest root mean square, over that of true events, of all samples and of one sample


def diverged(x: Tensor, scale: float | None = None) -> str | None:
    """Why samples ``x`` (n, ...) are no result, or None; ``scale`` is the root mean square of true events, if known."""
    if bad := int((~x.flatten(1).isfinite().all(1)).sum()):
        return f"the sampler diverged: {bad} of {len(x)} samples are not finite; try more steps"
    size, largest = root_mean_square(x), float(x.flatten(1).double().square().mean(1).sqrt().max())
    if scale is None or (size <= FAR * scale and largest <= STRAY * scale):
        return None
    sizes = f"{size:.3g}, that of the largest {largest:.3g}, that of true events {scale:.3g}"
    return f"the sampler diverged: the root mean square of its samples is {sizes}; try more steps"


def root_mean_square(x: Tensor) -> float:
    """The root mean square of all entries of ``x``, in float64."""
    return float(x.double().square().mean().sqrt())


def valueless(metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why ``metrics`` of finite samples, as a row holds them, are no result (none is finite), or None."""
    if not metrics or any(math.isfinite(metric["value"]) for metric in metrics.values()):
        return None
    return f"no metric of finite samples has a finite value: {', '.join(metrics)}"


def smallest_batch(n: int, batch_size: int | None) -> int:
    """The size of the smallest batch of ``n`` samples in batches of ``batch_size`` (None: all at once)."""
    size = min(batch_size or n, n)
    return n % size or size
