"""Conditions: controllable generation, with any sampler that is made of predictor and corrector steps.

A :class:`Condition` is a component: it describes a kind of knowledge, such as a mask. Given events to take the known
part from, it becomes an :class:`Observation`, which acts on sampling in two ways: on the score (``guide``), and on the
state (``impose``), whose known part is set to its law at the noise level at hand, after every step.

A step returns a state and its noise-free mean. The mean gets the known part without noise, so that the final sample
is denoised where it was generated and exact where it was known. (The published code builds the mean from the state
that already holds noise, and so never denoises the unknown part.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import attrs
from torch import Tensor

from .components import param, parameters
from .noise import Draw, Noise
from .sampler import Observer, Sampler
from .schedule import Step
from .score import ScoreModel
from .sde import SDE, Level
from .steps import Corrector, MultistepPredictor, Past, Predictor


class Observation(ABC):
    """What is known of samples 0 .. n-1, an entry a sample."""

    acts_on_state: bool = True
    """Whether :meth:`impose` does anything; if not, the condition works with every sampler."""

    @abstractmethod
    def rows(self, start: int, count: int) -> Observation:
        """What is known of samples ``start .. start + count``."""

    def to(self, x: Tensor) -> Observation:
        """The same on the device and in the dtype of ``x``."""
        return self

    def guide(self, model: ScoreModel) -> ScoreModel:
        """The conditional score model; the unconditional one where the condition acts on the state alone."""
        return model

    def impose(self, x: Tensor, level: Level, noise: Draw | None = None) -> Tensor:
        """The state with its known part set to its law at ``level``; to the mean of that law without ``noise``."""
        return x

    def drive(self, loop: Loop, x: Tensor, model: ScoreModel, noise: Noise) -> Tensor:
        """Samples like ``x``, the latent at t = 1: by ``loop``, with the known part imposed before it and in it.

        A method that needs more than a state a sample, such as particles, replaces this.
        """
        x = self.impose(x, model.sde.float_level(1.0), noise.at("prior", "condition"))
        sampler = loop.wrapped(
            lambda inner: _ConditionedPredictor(inner, self, loop.rounds),
            lambda inner: _ConditionedCorrector(inner, self),
        )
        return sampler.run(x, self.guide(model), noise, loop.observe)


class Condition(ABC):
    """A kind of knowledge about a sample."""

    needs_data: bool = True
    """Whether :meth:`observe` takes the known part from events."""
    mixes_channels: bool = False
    """Whether it knows sums over channels or columns, which a model must not have scaled one by one."""

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why this condition makes no sense for events of ``shape``, or None."""
        return None

    @abstractmethod
    def observe(self, x: Tensor) -> Observation:
        """What this condition keeps of events ``x`` (n, *shape), for n samples; nothing else of them is used."""


@attrs.frozen
class _ConditionedPredictor(MultistepPredictor):
    """A predictor after whose step the known part is imposed; ``rounds`` > 1 goes back and repeats it."""

    inner: Predictor
    observation: Observation
    rounds: int

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        for round_ in range(self.rounds):
            x, mean, past = self.inner.advance(x, step, model, noise, past)
            x = self.observation.impose(x, step.next, noise)
            if round_ + 1 < self.rounds:
                x = step.transition_scale * x + step.transition_std * noise()
                past = ()  # a state that was noised again has none
        return x, self.observation.impose(mean, step.next), past


@attrs.frozen
class _ConditionedCorrector(Corrector):
    """A corrector after which the known part is imposed."""

    inner: Corrector
    observation: Observation

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        if self.inner.idle:
            return x, x
        x, mean = self.inner.correct(x, step, model, noise)
        return self.observation.impose(x, step.now, noise), self.observation.impose(mean, step.now)


@attrs.frozen
class Loop:
    """A sampler that an observation drives: how often to take each predictor step, and who hears of the steps."""

    sampler: Sampler
    rounds: int = 1
    observe: Observer | None = None

    @property
    def steps(self) -> dict[str, Predictor | Corrector]:
        """The predictors and correctors among the sampler's parameters."""
        named = {p.name: getattr(self.sampler, p.name) for p in parameters(type(self.sampler))}
        return {name: part for name, part in named.items() if isinstance(part, Predictor | Corrector)}

    def wrapped(
        self, predictor: Callable[[Predictor], Predictor], corrector: Callable[[Corrector], Corrector]
    ) -> Sampler:
        """The sampler with its steps wrapped."""
        steps = {k: predictor(v) if isinstance(v, Predictor) else corrector(v) for k, v in self.steps.items()}
        return attrs.evolve(self.sampler, **steps)  # type: ignore[misc]


@attrs.frozen
class ConditionedSampler(Sampler):
    """Any sampler under an observation: its predictor and corrector are wrapped, its loop stays what it is.

    With ``rounds`` r > 1 every predictor step is taken r times, with the forward transition in between (RePaint,
    Lugmayr et al. 2022, arXiv:2201.09865, jumps of length one): the unknown part then hears of the known one r times.
    """

    sampler: Sampler = param(help="the sampler that does the work")
    observation: Observation = param(help="what is known")
    rounds: int = param(1, "how often each predictor step is taken", attrs.validators.ge(1))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        """The sampler's own loop, driven by what is known of these samples."""
        known = self.observation.rows(noise.start, noise.count).to(x)
        return known.drive(Loop(self.sampler, self.rounds, observe), x, model, noise)

    def skip(self, sde: SDE) -> str | None:
        """Where the sampler has no steps to act after, or refuses the SDE itself."""
        if not Loop(self.sampler).steps and (self.observation.acts_on_state or self.rounds > 1):
            return "this condition acts after every predictor and corrector step, and the sampler has none: take pc"
        return self.sampler.skip(sde)

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        """What the sampler says."""
        return self.sampler.caveat(shape, count)

    def decoupled(self) -> ConditionedSampler:
        """With the sampler that treats every sample by itself."""
        return attrs.evolve(self, sampler=self.sampler.decoupled())
