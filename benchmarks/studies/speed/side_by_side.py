"""Shared by the speed studies: options, timing of alternatives in turn, and the matrix-product peak."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import torch

from scoresde_run.machine.device import find_device, keep_freed_memory

Run = Callable[[], object]


def options_of(doc: str, *, published: bool = False) -> argparse.ArgumentParser:
    """A parser with the options of every speed study; ``published`` adds a checkout of the published code."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="threads on the CPU; 0: the default")
    if published:
        parser.add_argument("--published", type=Path, metavar="CHECKOUT", help="checkout of score_sde_pytorch")
    return parser


def prepare(options: argparse.Namespace, *, keep_memory: bool = True) -> torch.device:
    """Set up threads and, as the command line does, keep freed memory; returns the device."""
    if keep_memory:
        keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    return find_device(options.device)


def seconds(run: Run, device: torch.device) -> float:
    """Seconds of a call, synchronised with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@attrs.define
class Measured:
    """Seconds of every pass, and the peak of bytes that a pass allocates (CUDA only)."""

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
    """Run ``repeat`` passes of each in turn, after ``warm_up`` uncounted ones, so that a busy machine slows all alike.

    A run that is out of memory has that as its ``failure``; the others continue.
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
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    try:
        taken = seconds(run, device)
    except torch.OutOfMemoryError:
        found.failure = "out of memory"
        torch.cuda.empty_cache()
        return
    if counts:
        found.seconds.append(taken)
        if cuda:
            found.memory = max(found.memory, torch.cuda.max_memory_allocated(device) - before)


@contextlib.contextmanager
def tf32(on: bool):
    """Run the body with TF32 in matrix products and convolutions on or off."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32, repeat: int = 10) -> float:
    """Operations per second of a large matrix product, the upper bound for a network of matrix products."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = in_turn({"product": lambda: a @ b}, device, repeat, warm_up=3)["product"]
    return 2 * size**3 / product.fastest
