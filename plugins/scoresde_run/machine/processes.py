"""The processes of one run, as ``torchrun`` starts them; without it there is one.

Who a process is comes from the environment that ``torchrun`` sets (RANK, WORLD_SIZE, LOCAL_RANK). Process 0 writes,
shows and samples; all of them compute.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import attrs
import torch
from torch import Tensor
from torch import distributed as dist

from scoresde_core.errors import UsageError

from .device import find_device


@attrs.frozen
class Processes:
    """This process among all of a run, and the device that it computes on."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """``value`` summed over the processes, in place; every process must ask."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """The rows of every process's ``value``, in order of rank; every process must ask."""
        if self.count == 1:
            return value
        counts = torch.zeros(self.count, dtype=torch.int64, device=value.device)
        counts[self.rank] = len(value)
        sizes = self.total(counts).tolist()
        padded = torch.cat([value, value.new_zeros(max(sizes) - len(value), *value.shape[1:])])
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def wait(self) -> None:
        """Until every process is here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in some process; every process must ask, and waits until all have."""
        if self.count == 1:
            return flag
        # On a GPU the sum is only put in line: reading it is what waits.
        return bool(self.total(torch.tensor(float(flag), device=self.device)).item())

    def exchange(self, value: Any) -> list[Any]:
        """The plain ``value`` of every process, in order of rank; every process must ask."""
        found = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(found, value)
        return found


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process, connected with the others; on GPUs each has the one of its local number."""
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    found = find_device(_own(device) if count > 1 else device)
    if found.type == "cuda":
        torch.cuda.set_device(found)  # or whatever says "cuda" would mean the first, and take memory there
    if count == 1:
        yield Processes(found)
        return
    # One process may sample or judge for hours while the others wait; if it dies, torchrun ends them all.
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=timedelta(days=7))
    atexit.register(_leave)
    yield Processes(found, rank, count)
    atexit.unregister(_leave)
    dist.destroy_process_group()


def _leave() -> None:
    """The end after an error: NCCL's own would wait for the others, who wait for this process."""
    try:
        print(end="", flush=True)
    finally:
        os._exit(1)


def _own(device: str) -> str:
    """The device of this process among those of its machine, found without touching another's."""
    if device.partition(":")[0] not in ("cuda", "auto") or not torch.cuda.is_available():
        return device
    there, here = torch.cuda.device_count(), _number("LOCAL_WORLD_SIZE", 1)
    if here > there:  # every process finds this: none of them waits for one that is gone
        raise UsageError(f"{here} processes need as many GPUs, this machine has {there}: --nproc-per-node {there}")
    return f"cuda:{_number('LOCAL_RANK', 0)}"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"the environment variable {name} must be a number, got {text!r}: start with torchrun")
    return int(text)
