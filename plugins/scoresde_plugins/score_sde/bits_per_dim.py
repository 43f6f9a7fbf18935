r"""Bits per dimension of 8-bit images, for a density of any range.

A model of x = low + (high - low) (v + u) / 256, with integer values v and u from q(u | v) on [0, 1), bounds the
probability of v (Theis et al. 2016, arXiv:1511.01844; Ho et al. 2019, arXiv:1902.00275):

    -log P(v) <= E_q[-log p_x(x) - D log((high - low) / 256) + log q(u | v)]

In bits a dimension the middle term is log2(256 / (high - low)): 7 for data in [-1, 1], 8 for [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from scoresde_core.dequantizer import Dequantizer
from scoresde_core.noise import Noise

from ..dequantizers.uniform import UniformDequantizer

LogProb = Callable[[Tensor, int], Tensor]
"""(events (n, ...) in the model's range, seed) -> log density or a lower bound of it, (n,) in nats."""


@attrs.frozen(eq=False)
class BitsPerDim:
    """``values`` (repeats, n): one for every image and every draw of the dequantisation noise."""

    values: Tensor

    @property
    def per_image(self) -> Tensor:
        """(n,), averaged over the repeats."""
        return self.values.mean(0)

    @property
    def mean(self) -> float:
        """The average over images and repeats."""
        return float(self.values.mean())

    @property
    def stderr(self) -> float:
        """Its standard error over images; NaN for a single one."""
        images = self.values.shape[1]
        return float(self.per_image.std()) / math.sqrt(images) if images > 1 else math.nan


@torch.no_grad()
def bits_per_dim(
    log_prob: LogProb,
    images: Tensor,
    *,
    low: float = -1.0,
    high: float = 1.0,
    dequantizer: Dequantizer | None = None,
    repeats: int = 1,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
) -> BitsPerDim:
    """Bits per dimension of uint8 ``images`` (n, C, H, W) under a model of data between ``low`` and ``high``.

    Each of ``repeats`` passes has noise of its own, keyed by ``seed`` and the images' indices, ``first`` onwards.
    """
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 values 0 to 255, got {images.dtype}: pass them as they are on disk, "
            "scaling and dequantisation are done here"
        )
    if not high > low:
        raise ValueError(f"the range of the data needs high above low, got {low} to {high}")
    if repeats < 1 or not len(images):
        raise ValueError(f"there must be at least one image and one repeat, got {len(images)} and {repeats}")
    dequantizer, scale, values = dequantizer or UniformDequantizer(), (high - low) / 256, []
    noise = Noise(seed, tuple(images.shape[1:]), len(images), start=first, device=images.device, dtype=dtype)
    dim = images[0].numel()
    for repeat in range(repeats):
        filled, log_q = dequantizer.dequantize(images, noise.at(repeat, "dequantization"))
        density = log_prob(low + scale * filled.to(dtype), seed + repeat)
        nats = log_q.double() - density.double() - dim * math.log(scale)
        values.append(nats / (dim * math.log(2)))
    return BitsPerDim(torch.stack(values))
