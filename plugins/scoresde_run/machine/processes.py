"""The processes of one run, as started by ``torchrun``; without it there is one.

The rank of a process comes from the environment that ``torchrun`` sets (RANK, WORLD_SIZE, LOCAL_RANK). All processes
compute; process 0 also writes, prints and samples.
"""

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
from scoresde_core import UsageError
from .device import find_device


@attrs.frozen
class Processes:
    """The rank of this process, the number of processes, and this process's device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes and prints."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum ``value`` over the processes, in place; every process must call this."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate every process's ``value`` in order of rank; every process must call this."""
        if self.count == 1:
            return value
        return torch.cat(self.exchange(value.cpu())).to(value.device)

    def wait(self) -> None:
        """Wait until every process calls this."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any process; every process must call this, and waits for the others."""
        if self.count == 1:
            return flag
        # On a GPU the sum is only queued; reading it waits.
        return bool(self.total(torch.tensor(float(flag), device=self.device)).item())

    def exchange(self, value: Any) -> list[Any]:
        """The plain ``value`` of every process, in order of rank; every process must call this."""
        found = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(found, value)
        return found


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Connect this process with the others; on GPUs each uses the one of its local rank."""
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    found = find_device(_own(device) if count > 1 else device)
    if found.type == "cuda":
        torch.cuda.set_device(found)  # or "cuda" would mean the first GPU, and take memory there
    if count == 1:
        yield Processes(found)
        return
    # One process may sample or evaluate for hours while the others wait; if it dies, torchrun ends them all.
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=timedelta(days=7))
    atexit.register(_leave)
    yield Processes(found, rank, count)
    atexit.unregister(_leave)
    dist.destroy_process_group()


def _leave() -> None:
    """Exit after an error: NCCL's own exit would wait for the others, which wait for this process."""
    try:
        print(end="", flush=True)
    finally:
        os._exit(1)


def _own(device: str) -> str:
    """This process's device among those of its machine, chosen without touching another's."""
    if device.partition(":")[0] not in ("cuda", "auto") or not torch.cuda.is_available():
        return device
    gpus, local = torch.cuda.device_count(), _number("LOCAL_WORLD_SIZE", 1)
    if local > gpus:  # every process raises this, so none waits for another
        raise UsageError(f"{local} processes need {local} GPUs, this machine has {gpus}: use --nproc-per-node {gpus}")
    return f"cuda:{_number('LOCAL_RANK', 0)}"


def _number(name: str, default: int) -> int:
    if not (text := os.environ.get(name, str(default))).isdecimal():
        raise UsageError(f"the environment variable {name} must be a number, got {text!r}: start with torchrun")
    return int(text)
