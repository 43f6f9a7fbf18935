"""Conditions: controllable generation, with any sampler that is made of predictor and corrector steps.

A :class:`Condition` is a kind of knowledge, such as a mask. Its :class:`Observation` of given events acts on the score
(``guide``) and on the state (``impose``), whose known part gets its law at the noise level after every step. That of a
step's noise-free mean gets no noise, so that the final sample is denoised where it was generated and exact where it was
known. (The published code builds the mean from the noisy state, and so never denoises the unknown part.)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import attrs
from torch import Tensor
from scoresde_core import SDE, Draw, Level, Noise, Observer, Sampler, ScoreModel, Step, param, parameters
from scoresde_core.steps import Corrector, MultistepPredictor, Past, Predictor, advance


class Observation(ABC):
    """What is known of samples 0 .. n-1."""

    acts_on_state: bool = True
    """Whether :meth:`impose` changes the state; if not, the condition works with every sampler."""

    @abstractmethod
    def rows(self, start: int, count: int) -> "Observation":
        """The observation of samples ``start .. start + count``."""

    def to(self, x: Tensor) -> "Observation":
        """The observation on the device and in the dtype of ``x``."""
        return self

    def guide(self, model: ScoreModel) -> ScoreModel:
        """The conditional score model; ``model`` itself if the condition only acts on the state."""
        return model

    def impose(self, x: Tensor, level: Level, noise: Draw | None = None) -> Tensor:
        """The state with its known part drawn from its law at ``level``, or set to the mean without ``noise``."""
        return x

    def skip(self, loop: "Loop") -> str | None:
        """Why it cannot act in ``loop``, or None."""
        if not loop.steps and (self.acts_on_state or loop.rounds > 1):
            acts = "this condition acts after every predictor and corrector step"
            return f"{acts}, and the sampler takes none in turn: take pc"
        return loop.skip_jump() if loop.rounds > 1 else None

    def drive(self, loop: "Loop", x: Tensor, model: ScoreModel, noise: Noise) -> Tensor:
        """Run ``loop`` from the latent ``x`` at t_max, with the known part imposed; particle methods override this."""
        x = self.impose(x, model.sde.float_level(model.sde.t_max), noise.at("prior", "condition"))
        move = partial(_ConditionedPredictor, self, loop.rounds, loop.jump)
        correct = partial(_ConditionedCorrector, self)
        return loop.wrapped(move, correct).run(x, self.guide(model), noise, loop.observe)


class Condition(ABC):
    """A kind of knowledge about a sample."""

    needs_data: bool = True
    """Whether :meth:`observe` takes the known part from events."""
    mixes_channels: bool = False
    """Whether it knows sums over channels or columns, so that a model must not scale them separately."""
    rounds: int = 1
    """How often it wants each predictor step to be taken."""
    jump: int = 1
    """How many steps it wants to be taken before they are repeated."""

    def skip(self, shape: tuple[int, ...]) -> str | None:
        """Why this condition cannot apply to events of ``shape``, or None."""
        return None

    @abstractmethod
    def observe(self, x: Tensor) -> Observation:
        """The known part of events ``x`` (n, *shape), for n samples."""


@attrs.frozen
class _ConditionedPredictor(MultistepPredictor):
    """A predictor that imposes the known part after each step, and takes blocks of ``jump`` steps ``rounds`` times."""

    observation: Observation
    rounds: int
    jump: int
    inner: Predictor

    def plan(self, steps: list[Step]) -> list[Step]:
        """Blocks end at t_min and before; what is left over at the start, and the step to the data, are taken once."""
        first = (len(steps) - 1) % self.jump
        blocks = [steps[k : k + self.jump] for k in range(first, len(steps) - 1, self.jump)]
        return [*steps[:first], *(step for block in blocks for step in self.rounds * block), steps[-1]]

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        x, mean, past = advance(self.inner, x, step, model, noise, past)
        return self.observation.impose(x, step.next, noise), self.observation.impose(mean, step.next), past


@attrs.frozen
class _ConditionedCorrector(Corrector):
    observation: Observation
    inner: Corrector

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        if self.inner.idle:
            return x, x
        x, mean = self.inner.correct(x, step, model, noise)
        return self.observation.impose(x, step.now, noise), self.observation.impose(mean, step.now)


@attrs.frozen
class Loop:
    """A sampler for an observation to drive, with the repetitions of each predictor step and an observer of steps."""

    sampler: Sampler
    rounds: int = 1
    jump: int = 1
    observe: Observer | None = None

    @property
    def steps(self) -> dict[str, Predictor | Corrector]:
        """The predictors and correctors among the parameters of a sampler that takes their steps in turn."""
        if not self.sampler.in_turn:
            return {}
        named = {p.name: getattr(self.sampler, p.name) for p in parameters(type(self.sampler))}
        return {name: part for name, part in named.items() if isinstance(part, Predictor | Corrector)}

    def skip_jump(self) -> str | None:
        """Why the sampler cannot go back to repeat steps, or None."""
        name, steps = type(self.sampler).__name__, getattr(self.sampler, "steps", 0)
        if not hasattr(self.sampler, "plan"):
            return f"{name} cannot go back to repeat its steps: take pc, or rounds=1"
        if steps <= self.jump:
            return f"jump={self.jump} needs over {self.jump} steps, got {steps}: take more, a smaller jump, or rounds=1"
        return None

    def wrapped(self, move: Callable[[Predictor], Predictor], correct: Callable[[Corrector], Corrector]) -> Sampler:
        """The sampler with its steps wrapped."""
        steps = {k: move(v) if isinstance(v, Predictor) else correct(v) for k, v in self.steps.items()}
        return attrs.evolve(self.sampler, **steps)  # type: ignore[misc]


@attrs.frozen
class ConditionedSampler(Sampler):
    """Any sampler under an observation: its predictor and corrector are wrapped, its loop is unchanged.

    With ``rounds`` r > 1 every block of ``jump`` j steps is taken r times, with the forward transition in between
    (RePaint, Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1 with j = 1; published with j = r = 10), so the unknown
    part adapts to the known one r times. Blocks end at t_min; the step from there to the data is taken once.
    """

    sampler: Sampler = param(help="the sampler to condition")
    observation: Observation = param(help="what is known")
    rounds: int = param(1, "repetitions of each predictor step", attrs.validators.ge(1))
    jump: int = param(1, "steps between going back", attrs.validators.ge(1))

    def run(self, x: Tensor, model: ScoreModel, noise: Noise, observe: Observer | None = None) -> Tensor:
        known = self.observation.rows(noise.start, noise.count).to(x)
        return known.drive(Loop(self.sampler, self.rounds, self.jump, observe), x, model, noise)

    def skip(self, sde: SDE) -> str | None:
        """Why the sampler has no steps to act after, or does not support ``sde``; or None."""
        if sde.needs:
            return f"a condition acts on events, {type(sde).__name__} samples their distance to y: take vp or ve"
        return self.observation.skip(Loop(self.sampler, self.rounds, self.jump)) or self.sampler.skip(sde)

    def skip_model(self, model: ScoreModel) -> str | None:
        return self.sampler.skip_model(model)

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        return self.sampler.caveat(shape, count)

    def decoupled(self) -> "ConditionedSampler":
        return attrs.evolve(self, sampler=self.sampler.decoupled())
