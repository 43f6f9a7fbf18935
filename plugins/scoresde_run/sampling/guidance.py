"""Guidance: a score model made sharper by another score, with any sampler.

A :class:`Guidance` is a component; :class:`GuidedSampler` runs any sampler on what it makes of the model. The law of
its samples is that of the guided flow or SDE, and in general no tilted density p(x) p(c | x)^w (docs/known.md).
"""

from abc import ABC, abstractmethod

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from scoresde_core import SDE, Level, Noise, Observer, Sampler, ScoreModel, WrappedScore, param


class ExtrapolatedScore(WrappedScore):
    """``base + scale (model - base)`` where the noise sigma / alpha lies in ``interval``, else ``model``.

    Both evaluations are counted. Outside of the interval, at one level for all samples, ``base`` is not evaluated.
    """

    def __init__(self, model: ScoreModel, base: ScoreModel, scale: float, interval: tuple[float, float]) -> None:
        super().__init__(model)
        self.base, self.scale, self.interval = base, scale, interval

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        score, (low, high) = self.model.score(x, level), self.interval
        inside: bool | Tensor = self.interval == EVERYWHERE or (
            (level.sigma > low * level.alpha) & (level.sigma <= high * level.alpha)
        )
        if self.scale == 1 or inside is False:
            return score
        more = (score - self.base.score(x, level)) * (self.scale - 1)
        return score + (more if inside is True else torch.as_tensor(inside, device=x.device) * more)

    def select(self, index: Tensor) -> "ExtrapolatedScore":
        return self.part(model=self.model.select(index), base=self.base.select(index))


EVERYWHERE = (0.0, float("inf"))


@attrs.frozen(kw_only=True)
class Guidance(ABC):
    """Guidance away from a base score: score = base + scale (model - base) at the noise levels of ``interval``."""

    scale: float = param(2.0, "guidance scale w; 1: none", ge(0))
    interval: tuple[float, float] = param(EVERYWHERE, "the noise sigma / alpha above and up to which it acts")

    def __attrs_post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high:
            raise ValueError(f"interval must be two numbers with 0 <= low < high, got {list(self.interval)}")

    def skip(self, model: ScoreModel) -> str | None:
        """Why ``model`` cannot be guided so, or None; before any work."""
        if self.interval != EVERYWHERE and model.sde.form != "scalar":
            return f"an interval of sigma / alpha needs one alpha and sigma, {type(model.sde).__name__} has more"
        return None

    @abstractmethod
    def base(self, model: ScoreModel, like: Tensor) -> ScoreModel:
        """The score to go away from, on the device and in the dtype of ``like``; ``model`` counts its evaluations."""

    def guide(self, model: ScoreModel, like: Tensor) -> ScoreModel:
        """The guided model, for states like ``like``."""
        return ExtrapolatedScore(model, self.base(model, like), self.scale, self.interval)


@attrs.frozen
class GuidedSampler(Sampler):
    """Any sampler with a guided score, from the model and what it knows of its samples."""

    sampler: Sampler = param(help="the sampler to guide")
    guidance: Guidance = param(help="such as cfg")

    @property
    def serves(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.sampler.serves)

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        return self.sampler.run(x, self.guidance.guide(model, x), noise, observe)

    def skip(self, sde: SDE) -> str | None:
        return self.sampler.skip(sde)

    def skip_model(self, model: ScoreModel) -> str | None:
        return self.guidance.skip(model) or self.sampler.skip_model(model)

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        return self.sampler.caveat(shape, count)

    def decoupled(self) -> "GuidedSampler":
        return attrs.evolve(self, sampler=self.sampler.decoupled())
