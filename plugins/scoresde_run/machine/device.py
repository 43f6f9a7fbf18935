"""The device that a command was asked to use, and how it keeps its memory."""

from __future__ import annotations

import ctypes
import time

import torch

from scoresde_core.errors import UsageError


def find_device(name: str) -> torch.device:
    """The device called ``name``, with its number (``auto``: a GPU if there is one); a missing one is an error."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        probe = torch.ones(1, device=chosen)  # by a kernel, which torch may not have for an old GPU
        probe.tolist()  # of meta, which holds no values, this fails as well
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if len(known) > 1 and chosen in ("cuda", *known):
            raise UsageError(f"the device {name!r} is here, but {str(error).partition(chr(10))[0]}") from error
        raise UsageError(f"there is no device {name!r}: this machine has {', '.join(known)}") from error
    # Tensors on "cuda" say "cuda:0": only with its number does the device equal that of what lies on it.
    return probe.device


def use_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions on a GPU may round their factors to 10 bits (TF32).

    Left alone, torch does so in convolutions.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def slow_precision(device: torch.device, precision: str) -> str | None:
    """What to say before a network computes in ``precision`` on a CPU that has no instructions for it, else None.

    Measured: a product of two small matrices, in a quarter of a second at most.
    """
    if device.type != "cpu" or precision == "float32":
        return None
    factor = _seconds(getattr(torch, precision)) / _seconds(torch.float32)
    if factor < _SLOW:
        return None
    return (
        f"this CPU has no fast instructions for {precision}: its products take {factor:.0f} times as long as in "
        "float32 (measured); take float32 here, or a GPU"
    )


_SLOW = 3.0
"""How much longer a product takes from which on it is worth a word."""


def _seconds(dtype: torch.dtype, size: int = 192) -> float:
    """Of a product of two matrices: the shortest of three, after one that warms up."""
    matrix, times = torch.ones(size, size, dtype=dtype), []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def keep_freed_memory() -> bool:
    """Tell the C library of Linux to keep what is freed; whether it agreed. For programs, not for libraries.

    Every step of a sampler frees a few states and allocates as many. glibc gives such blocks back to the system and
    fetches their pages anew, which an ODE step with its many stages feels most.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**25))
