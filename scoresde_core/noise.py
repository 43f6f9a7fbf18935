"""Gaussian noise keyed by (seed, sample index, step, purpose), so that a sample never depends on its batch.

Consecutive samples form blocks whose size depends only on the event shape and the kind of device. The noise of a block
at one step for one purpose comes from a generator seeded with a hash of that key; a batch that contains part of a block
draws it up to there (on a GPU the whole) and keeps its part. The same seed therefore gives the same samples for any
batch size and number of processes on one kind of device. Threads of a CPU fill blocks side by side, with the same bits.
(Torch's CPU generator keeps 32 bits of its seed, its CUDA generator all 64.)
"""

import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

Draw = Callable[[], Tensor]
"""Returns a fresh standard normal tensor of the state's shape on each call; the caller may overwrite it."""

_BLOCK_NUMBERS = {"cpu": 2**16, "cuda": 2**20}


def key(*parts: object) -> int:
    """A 63-bit integer from the parts of a key, stable across machines and versions."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Helpers of the calling thread; those of a parent process do not run in its fork."""
    return ThreadPoolExecutor(os.cpu_count())


class Noise:
    """The noise of samples ``start .. start + count`` of a run with ``seed``; ``shape`` is that of one event."""

    def __init__(
        self, seed: int, shape: tuple[int, ...], count: int, *, start: int = 0, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.seed, self.shape, self.start, self.count = seed, tuple(shape), start, count
        self.device, self.dtype = torch.device(device), dtype
        self.generator = torch.Generator(self.device)
        numbers = _BLOCK_NUMBERS.get(self.device.type, 2**16)
        self.block = 1 << max(0, numbers // max(1, prod(shape))).bit_length()

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        """(count, *shape) standard normal numbers for this key."""
        return self._fill(Tensor.normal_, step, purpose, draw)

    def uniform(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        """(count, *shape) numbers uniform on [0, 1) for this key."""
        return self._fill(Tensor.uniform_, step, purpose, draw)

    def _fill(self, fill: Callable[..., Tensor], step: int | str, purpose: str, draw: int) -> Tensor:
        out = torch.empty((self.count, *self.shape), device=self.device, dtype=self.dtype)
        end, cpu = self.start + self.count, self.device.type == "cpu"
        blocks = range(self.start // self.block, -(-end // self.block))
        left = iter(blocks)

        def work(generator: torch.Generator) -> None:
            for block in left:
                first = block * self.block
                low, high = max(self.start, first), min(end, first + self.block)
                generator.manual_seed(key(self.seed, block, step, purpose, draw))
                rows = out[low - self.start : high - self.start]
                if high - low == self.block:
                    fill(rows, generator=generator)
                    continue
                whole, skipped, needed = (prod(self.shape) * n for n in (self.block, low - first, high - first))
                size = min(whole, -(-needed // 16) * 16) if cpu else whole  # a CPU goes by sixteen numbers, in order
                numbers = torch.empty(size, device=self.device, dtype=self.dtype)
                rows.copy_(fill(numbers, generator=generator)[skipped:needed].reshape(rows.shape))

        threads = min(torch.get_num_threads(), len(blocks)) if cpu else 1
        mode = torch.inference_mode(out.is_inference())  # each thread has its own
        helpers = [_threads(os.getpid()).submit(mode(work), torch.Generator()) for _ in range(threads - 1)]
        work(self.generator)
        for helper in helpers:
            helper.cancel() or helper.result()  # one that has not begun found nothing left
        return out

    def at(self, step: int | str, purpose: str) -> Draw:
        """A function that returns the first, second, ... draw for this step and purpose."""
        numbers = itertools.count()
        return lambda: self.draw(step, purpose, next(numbers))
