r"""Losses: what training minimises, as a function of a batch and of given random numbers.

Every denoising loss is a weighted sum of one quantity. With x_t = alpha x_0 + sigma z, the error

    e(x_t, t) = sigma s(x_t, t) + z = z - eps(x_t, t)

has a minimiser of E|e|^2 at every t: E[-z / sigma | x_t], the exact score (Vincent 2011; Song et al. 2021,
arXiv:2011.13456, Eq. 7). Losses differ in the law of t, the weight of |e|^2 and the reduction over dimensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from .noise import Noise
from .score import ScoreModel
from .sde import Level
from .shapes import combine

Reduction = Literal["mean", "half_sum"]
"""The squared error of a sample as the mean over its dimensions, or half their sum (published VE configurations)."""


class Draws:
    """The random numbers of rows ``start .. start + count`` of a batch of ``total``, at one step of a run.

    They depend only on (seed, step, row, purpose), so they are the same in a resumed run, and however a batch is split
    over processes or accumulation steps. A step may be a word, as in ``Draws(seed, "evaluation", count)``.
    """

    def __init__(
        self, seed: int, step: int | str, count: int, *, start: int = 0, total: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.seed, self.step, self.count, self.start = seed, step, count, start
        self.total = start + count if total is None else total
        self.device = torch.device(device)
        if not 0 <= start <= start + count <= self.total:
            raise ValueError(f"rows {start} to {start + count} do not lie in a batch of {self.total}")

    def normal(self, like: Tensor, purpose: str = "noise") -> Tensor:
        """Standard normal numbers of the shape (count, ...) and dtype of ``like``."""
        return self._noise(tuple(like.shape[1:]), like.dtype).draw(self.step, purpose)

    def uniform(self, purpose: str = "time", *, shape: tuple[int, ...] = (), stratified: bool = False) -> Tensor:
        """(count, *shape) float64 numbers on [0, 1).

        ``stratified`` draws row i of the whole batch from [i, i + 1) / total, which reduces the variance of a mean over
        the batch. An event still gets every time, as its row changes between epochs.
        """
        u = self._noise(shape, torch.float64).uniform(self.step, purpose)
        if not stratified:
            return u
        row = torch.arange(self.start, self.start + self.count, device=self.device, dtype=torch.float64)
        return (u + row.reshape(-1, *[1] * len(shape))) / self.total

    def _noise(self, shape: tuple[int, ...], dtype: torch.dtype) -> Noise:
        return Noise(self.seed, shape, self.count, start=self.start, device=self.device, dtype=dtype)


class Loss(ABC):
    """A per-sample training loss whose minimiser is the truth: the exact score, unless ``trains`` says otherwise."""

    trains: ClassVar[type] = ScoreModel
    """The contract of what it trains (the network's ``view``)."""
    serves: Collection[str] = ("scalar",)
    """The forms of processes that it trains a model of."""
    needs: ClassVar[tuple[str, ...]] = ()
    """The other data of events that it needs: names that a data set gives."""

    def skip(self, model: Any) -> str | None:
        """Why this loss cannot train ``model``, or None; called once, before any work."""
        return None

    def skip_data(self, model: Any, known: Mapping[str, Tensor]) -> str | None:
        """Why this loss cannot train ``model`` on events with this ``known`` data, or None; called once per split."""
        return None

    @abstractmethod
    def per_sample(self, model: Any, x: Tensor, draws: Draws, *_: Any, **known: Any) -> Tensor:
        """The loss of each event in ``x`` (B, ...), as (B,); a deterministic function of ``draws``.

        ``known`` holds the data named in ``needs``, one row per event; a loss that needs none may omit it.
        """


def denoising_error(
    model: ScoreModel, level: Level, x: Tensor, noise: Tensor, reduction: Reduction, weight: Tensor | float = 1.0
) -> Tensor:
    """|sigma s(x_t, t) + z|^2 reduced to (B,), for clean ``x`` and ``noise`` z (B, ...) at one level per row.

    Both are in the frame of the process (:func:`~scoresde_core.score.in_frame`); ``weight`` broadcasts against them.
    """
    perturbed = combine(level.alpha, x, level.sigma, noise)
    squared = (weight * (noise - model.noise(perturbed, level)).square()).flatten(1)
    return squared.mean(1) if reduction == "mean" else 0.5 * squared.sum(1)
