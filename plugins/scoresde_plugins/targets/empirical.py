r"""The law of a data set itself, each of its N events with the probability 1/N: the score that training aims at.

    x = alpha x_0 + sigma eps,    E[x_0 | x] = sum_i w_i x_i,    score = (alpha E[x_0 | x] - x) / sigma^2
    w = softmax(l),    l_i = alpha <x, x_i> / sigma^2 - alpha^2 |x_i|^2 / (2 sigma^2)

A network without error has this score, and samples with it are events of the data (Karras et al. 2022,
arXiv:2206.00364, App. B.3). With a patch, each pixel has a posterior of its own, over the patches of all events at its
position or at every position: the optimal score of a network that is local, or local and equivariant (Kamb & Ganguli
2024, arXiv:2412.20292). Such a field is not the gradient of a density.

Blocks of events pass through two matrix products and a running softmax, so that the memory does not grow with N. Events
are centred. In float32, l_i is off by about 1e-7 alpha^2 |x_i|^2 / sigma^2: where this exceeds 1e-3 all is in float64.
"""

from __future__ import annotations

import math
from copy import copy
from functools import cached_property
from math import prod
from typing import Any, ClassVar, Literal, Self

import attrs
import torch
from attrs.validators import ge, optional
from torch import Tensor
from torch.nn.functional import unfold
from scoresde_core import DATA, Estimate, Level, Noise, Target, UsageError, param
from scoresde_core.shapes import per_row
from scoresde_run import Dataset, Split, Units
from .mixture import LEAST, Coefficient, coefficients, events

_ENTRIES = 2**21
"""The most weights, and the most entries of events, that are held at once."""
_ROUNDING = 1e-3
_NO_DENSITY = "the events of a data set are points, without a density: ask for log_prob and score at sigma > 0"


@attrs.frozen
class EmpiricalTarget(Target):
    """The events of a data set, images on [-1, 1]; ``log_prob`` and ``score`` need noise, sigma > 0.

    With ``patch`` there is a score, but no ``log_prob``. Pixels beyond the edge of an image are without noise, and have
    the mean value: of their place, or with ``position=any`` of their channel.
    """

    discrete = True
    example: ClassVar[dict[str, Any]] = {"dataset": "exact[target=mixture2d,count=300,test_count=2]"}

    dataset: Dataset = param(help="data set, such as mnist[root=data]", eq=repr)
    split: Split = param("train", "which part of it")
    count: int | None = param(None, "only its first N events; null: all", optional(ge(1)))
    patch: int | None = param(None, "odd side of what a pixel sees; null: the whole event", optional(ge(1)))
    position: Literal["same", "any"] = param("any", "compare patches at the pixel's position, or at any position")

    def __attrs_post_init__(self) -> None:
        if self.patch is not None and (self.patch % 2 == 0 or len(self.shape) != 3):
            raise ValueError(f"patch needs an odd side and images, got {self.patch} for events of shape {self.shape}")
        if len(self._events[0]) < (self.count or 1):  # reads them: an unusable data set is refused here
            raise ValueError(f"count={self.count} is more than the {len(self._events[0])} events of {self.dataset}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def images(self) -> bool:
        return self.dataset.levels is not None and len(self.shape) == 3

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` events (n, *shape), drawn with replacement; the first m are those of ``sample(m, seed)``."""
        rows, center, *_ = self._events
        u = Noise(seed, (), n, dtype=torch.float64).uniform("target", "event")
        return (rows[(u * len(rows)).long().to(rows.device)] + center).float().cpu()

    def log_prob(self, x: Tensor, level: Level = DATA) -> Tensor:
        if self.patch is not None:
            raise UsageError(f"a score of patches is not the gradient of a density: leave patch={self.patch} out")
        query, alpha, sigma = self._asked(x, level)
        log_sum = self._posterior(query, alpha, sigma)[1].double().unsqueeze(1)
        variance = torch.as_tensor(sigma, dtype=torch.float64) ** 2
        square = query.double().flatten(1).square().sum(1, keepdim=True) / variance
        volume = math.log(len(self._events[0])) + prod(self.shape) / 2 * (2 * math.pi * variance).log()
        return (log_sum - square / 2 - volume).squeeze(1).to(query.dtype)

    def score(self, x: Tensor, level: Level = DATA) -> Tensor:
        query, alpha, sigma = self._asked(x, level)
        mean = self._posterior(query, alpha, sigma)[0]
        return ((alpha * mean - query.flatten(1)) / sigma**2).to(query.dtype).reshape(x.shape)

    def entropy(self) -> Estimate:
        """Raise ``UsageError``: points have no density."""
        raise UsageError(_NO_DENSITY)

    def moments(self) -> tuple[Tensor, Tensor]:
        rows, center, *_ = self._events
        blocks = torch.split(rows.flatten(1), max(1, _ENTRIES // prod(self.shape)))
        mean = rows.mean(0, dtype=torch.float64).flatten()
        covariance = sum((block - mean).T @ (block - mean) for block in blocks) / len(rows)
        return mean + center.expand(self.shape).flatten(), torch.as_tensor(covariance)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        clone, (rows, center, _, size) = copy(self), self._events
        object.__setattr__(clone, "_events", (rows.to(device), center.to(device), dtype, size))
        return clone

    @cached_property
    def _events(self) -> tuple[Tensor, Tensor, torch.dtype, float]:
        """The events minus their centre (N, *shape), the centre, the dtype of answers, and the mean |x_i|^2."""
        found = Units(levels=self.dataset.levels).encode(self.dataset.load(self.split)[: self.count])  # type: ignore[arg-type]
        center = found.mean((0, 2, 3) if self._anywhere else 0, keepdim=True, dtype=torch.float64)[0].to(found)
        rows, seen = found - center, prod(self.shape) if self.patch is None else self.shape[0] * self.patch**2
        return rows, center, torch.float32, float(torch.linalg.vector_norm(rows)) ** 2 / rows.numel() * seen

    @property
    def _anywhere(self) -> bool:
        return self.patch is not None and self.position == "any"

    def _asked(self, x: Tensor, level: Level) -> tuple[Tensor, Coefficient, Coefficient]:
        """x - alpha c in the dtype of the answer, alpha and sigma."""
        (_, center, dtype, _), flat = self._events, events(x, self.shape)
        flat = flat.to(torch.promote_types(flat.dtype, dtype))
        alpha, sigma = coefficients(level, flat)
        if not isinstance(sigma, Tensor) and sigma <= 0:
            raise UsageError(_NO_DENSITY)
        return (flat - (alpha * center.expand(self.shape).flatten()).to(flat)).reshape(x.shape), alpha, sigma

    def _posterior(self, query: Tensor, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
        """E[x_0 - c | x] (B, D), and log sum_i exp(l_i) of the first pixel, (B,)."""
        linear, square = alpha / sigma**2, alpha**2 / sigma**2
        most = float(square.max()) if isinstance(square, Tensor) else square
        rough = torch.finfo(query.dtype).eps * self._events[3] * most > _ROUNDING
        like = query.new_empty(len(query), dtype=torch.float64 if rough else query.dtype)
        pixels = 1 if self.patch is None else prod(self.shape[1:])
        rows = max(1, _ENTRIES // (pixels**2 if self._anywhere else pixels))
        parts = [torch.split(each, rows) for each in (query.to(like), per_row(linear, like), per_row(square, like))]
        means, sums = zip(*(self._streamed(q, a, b, pixels) for q, a, b in zip(*parts, strict=True)), strict=True)
        return torch.cat(means), torch.cat(sums)

    def _streamed(self, query: Tensor, linear: Tensor, square: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """The same for rows that fit into memory: groups of queries against blocks of keys, (G, Q, d) and (G, n, d)."""
        each = pixels if self._anywhere else 1
        queries = self._grouped(self._patches(query)) * linear.repeat_interleave(each).unsqueeze(1)
        half = -0.5 * square.repeat_interleave(each).unsqueeze(1)
        top = queries.new_full((*queries.shape[:2], 1), -math.inf)
        total, mean = torch.zeros_like(top), torch.zeros((), dtype=top.dtype, device=top.device)
        size = max(1, _ENTRIES // max(len(query) * pixels * each, queries.shape[2] * pixels))
        for stored in torch.split(self._events[0], size):
            block = stored.to(query.dtype)
            keys = self._grouped(self._patches(block))
            values = keys if self.patch is None else self._grouped(block.flatten(2))
            logits = torch.bmm(queries, keys.mT).addcmul_(
                half, torch.linalg.vector_norm(keys, dim=2).square().unsqueeze(1)
            )
            before, top = top, torch.maximum(top, logits.detach().amax(2, keepdim=True))
            weights, faded = (each.clamp_min_(LEAST).exp_() for each in (logits.sub_(top), before - top))
            total = total * faded + weights.sum(2, keepdim=True)
            mean = mean * faded + torch.bmm(weights, values)
        mean, sums = mean / total, (top + total.log())[0, :, 0]
        if self._anywhere:
            return mean.reshape(len(query), pixels, -1).mT.flatten(1), sums[::pixels]
        return mean.permute(1, 2, 0).flatten(1), sums

    def _patches(self, x: Tensor) -> Tensor:
        """(B, d, pixels) of events (B, *shape); a whole event is one pixel's patch."""
        return x.flatten(1).unsqueeze(2) if self.patch is None else unfold(x, self.patch, padding=self.patch // 2)

    def _grouped(self, patches: Tensor) -> Tensor:
        """(pixels, B, d), or (1, B pixels, d) where all positions are compared."""
        return patches.mT.flatten(0, 1).unsqueeze(0) if self._anywhere else patches.permute(2, 0, 1)
