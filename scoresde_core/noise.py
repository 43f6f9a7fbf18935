"""Gaussian noise keyed by (seed, sample index, step, purpose), so that a sample never depends on its batch.

Consecutive samples form blocks whose size depends only on the event shape and the kind of device. The noise of a block
at one step for one purpose comes from a generator seeded with a hash of that key; a batch that contains part of a block
draws the whole block and keeps its part. The same seed therefore gives the same samples for any batch size and number
of processes on one kind of device. (Torch's CPU generator keeps 32 bits of its seed, its CUDA generator all 64.)
"""

import hashlib
import itertools
from collections.abc import Callable
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
        end = self.start + self.count
        for block in range(self.start // self.block, -(-end // self.block)):
            first = block * self.block
            low, high = max(self.start, first), min(end, first + self.block)
            self.generator.manual_seed(key(self.seed, block, step, purpose, draw))
            rows = out[low - self.start : high - self.start]
            if high - low == self.block:
                fill(rows, generator=self.generator)
            else:
                whole = torch.empty((self.block, *self.shape), device=self.device, dtype=self.dtype)
                rows.copy_(fill(whole, generator=self.generator)[low - first : high - first])
        return out

    def at(self, step: int | str, purpose: str) -> Draw:
        """A function that returns the first, second, ... draw for this step and purpose."""
        numbers = itertools.count()
        return lambda: self.draw(step, purpose, next(numbers))
