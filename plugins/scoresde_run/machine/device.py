"""Devices: finding one by name, its precision, and its memory."""

import ctypes
import timeit
from collections.abc import Mapping

import torch
from scoresde_core import UsageError

PRECISIONS: Mapping[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The ``autocast`` type of a network by name; the state keeps its own."""


def find_device(name: str) -> torch.device:
    """The device called ``name``, with its number; ``auto`` is a GPU if there is one. A missing one is an error."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        probe = torch.ones(1, device=chosen)  # runs a kernel, which torch may lack for an old GPU
        probe.tolist()  # fails on meta, which holds no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if len(known) > 1 and chosen in ("cuda", *known):
            raise UsageError(f"the device {name!r} cannot be used: {str(error).partition(chr(10))[0]}") from error
        raise UsageError(f"there is no device {name!r}: this machine has {', '.join(known)}") from error
    # The device of a tensor on "cuda" is "cuda:0", which does not equal "cuda".
    return probe.device


def use_tf32(allowed: bool) -> None:
    """Set whether float32 products and convolutions on a GPU may round their factors to 10 bits (TF32)."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def slow_precision(device: torch.device, precision: str) -> str | None:
    """A warning if this CPU has no fast instructions for ``precision``, or None; measured in a quarter of a second."""
    if device.type != "cpu" or precision == "float32":
        return None
    factor = _seconds(getattr(torch, precision)) / _seconds(torch.float32)
    if factor < 3:  # the least ratio that is worth a warning
        return None
    measured = f"its products take {factor:.0f} times as long as in float32 (measured)"
    return f"this CPU has no fast instructions for {precision}: {measured}; use float32, or a GPU"


def _seconds(dtype: torch.dtype) -> float:
    """The time of a product of two matrices: the shortest of three, after one to warm up."""
    matrix = torch.ones(192, 192, dtype=dtype)
    return min(timeit.repeat(lambda: torch.mm(matrix, matrix), number=1, repeat=4)[1:])


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, which it would return to the system and map again at every step of a sampler."""
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**25))
