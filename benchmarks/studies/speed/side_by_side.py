"""Alternatives timed in turn, so that a busy machine slows all of them alike, and the peak that bounds them."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping

import attrs
import torch

Run = Callable[[], object]


@attrs.define
class Measured:
    """Seconds of every pass, and the bytes that a pass allocates at most beyond what was there (CUDA alone)."""

    seconds: list[float] = attrs.Factory(list)
    memory: int = 0
    failure: str | None = None

    @property
    def fastest(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def in_turn(runs: Mapping[str, Run], device: torch.device, repeat: int, warm_up: int = 1) -> dict[str, Measured]:
    """``repeat`` passes of each, one of each in turn, after ``warm_up`` that do not count; waits for the device.

    What does not fit into memory has that as its ``failure``; the others go on.
    """
    measured = {name: Measured() for name in runs}
    for turn in range(-warm_up, repeat):
        for name, run in runs.items():
            found = measured[name]
            if found.failure is None:
                _one(run, device, found, counts=turn >= 0)
    return measured


def _one(run: Run, device: torch.device, found: Measured, *, counts: bool) -> None:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    start = time.perf_counter()
    try:
        run()
        if cuda:
            torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        found.failure = "out of memory"
        torch.cuda.empty_cache()
        return
    if counts:
        found.seconds.append(time.perf_counter() - start)
        if cuda:
            found.memory = max(found.memory, torch.cuda.max_memory_allocated(device) - before)


@contextlib.contextmanager
def tf32(on: bool):
    """Matrix products and convolutions with TF32's 10 bits of mantissa, or in float32 throughout."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32, repeat: int = 10) -> float:
    """Operations a second of a large matrix product: what no network of matrix products can exceed."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = in_turn({"product": lambda: a @ b}, device, repeat, warm_up=3)["product"]
    return 2 * size**3 / product.fastest
