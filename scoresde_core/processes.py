"""The processes of one run, as ``torchrun`` starts them; without it there is one.

Who a process is comes from the environment that ``torchrun`` sets (RANK, WORLD_SIZE, LOCAL_RANK). Process 0 writes,
shows and samples; all of them compute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import attrs
import torch
from torch import Tensor
from torch import distributed as dist

from .device import find_device
from .errors import UsageError


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
        if self.count > 1:
            self.total(torch.zeros((), device=self.device))

    def exchange(self, value: Any) -> list[Any]:
        """The plain ``value`` of every process, in order of rank; every process must ask."""
        found = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(found, value)
        return found


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process, connected with the others; on GPUs each has the one of its local number."""
    rank, count, local = (
        _number(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if count == 1:
        yield Processes(find_device(device))
        return
    found = find_device(device)
    if found.type == "cuda":
        found = find_device(f"cuda:{local}")
        torch.cuda.set_device(found)
    # One process may sample or judge for hours while the others wait; if it dies, torchrun ends them all.
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield Processes(found, rank, count)
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"the environment variable {name} must be a number, got {text!r}: start with torchrun")
    return int(text)
