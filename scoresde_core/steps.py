"""Predictors and correctors: one update of the state, written once for every SDE.

Both get the time from a :class:`~scoresde_core.schedule.Step` and the score from a
:class:`~scoresde_core.score.ScoreModel`, and return the new state and its noise-free mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor
from .noise import Draw
from .schedule import Grid, Step
from .shapes import NUMBER

if TYPE_CHECKING:
    from .score import ScoreModel
    from .sde import SDE


def unserved(component: Any, process: SDE) -> str | None:
    """Why ``component`` does not serve the form of ``process``, or None; it says so in ``serves``."""
    if process.form in component.serves:
        return None
    serves = f"{type(component).__name__} serves processes of the form {' or '.join(component.serves)}"
    return f"{serves}, {type(process).__name__} has the form {process.form}: docs/processes.md lists what serves it"


Past = tuple[Any, ...]
"""What a multistep method keeps of previous steps."""


class Method(ABC):  # noqa: B024  # its subclasses have the abstract methods
    """What acts on samples of a process: a predictor, a corrector, or a sampler with these as its components."""

    serves: Collection[str] = ("scalar",)
    """The forms of processes whose coefficients it can use."""
    idle: bool = False  # whether it leaves the state unchanged

    def skip(self, sde: SDE) -> str | None:
        """Why it, with its components, does not support ``sde``, or None."""
        return None

    def caveat(self, shape: tuple[int, ...], count: int) -> str | None:
        """A problem with batches of ``count`` events of ``shape`` and its remedy, or None."""
        return None

    def decoupled(self) -> Self:
        """The variant that treats each sample independently; by default it itself."""
        return self


class Predictor(Method):
    """One reverse-time step ``step.now -> step.next``.

    ``order`` is the declared order of convergence: of the final state for a deterministic step, of the final
    distribution (weak order) for a stochastic one; ``None`` if the step does not converge by itself.
    """

    order: float | None = 1.0
    grid: Grid | None = None
    """The default grid of a sampler with this predictor; None leaves the choice to the sampler."""
    stochastic: bool = True
    """Whether the step draws noise."""

    def plan(self, steps: list[Step]) -> list[Step]:
        """The steps of a run in the order in which it takes them; noise is added before one that starts higher up."""
        return steps

    def skip_times(self, sde: SDE, grid: Grid, steps: int) -> str | None:
        """Why this predictor cannot take ``steps`` steps on ``grid`` with a supported ``sde``, or None."""
        return None

    @abstractmethod
    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """``x`` (B, ...) at ``step.now`` -> the state at ``step.next`` and its mean, both like ``x``."""

    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        """:meth:`step` within a run: takes the ``past`` of the previous step, () at first, and returns its own."""
        return *self.step(x, step, model, noise), ()


class MultistepPredictor(Predictor):
    """A predictor that uses values of previous steps, its past, which a loop passes to :meth:`advance`.

    Pass () at the start of a run and after adding noise to the state; select rows of both (:func:`rows_of_past`).
    """

    first_order: float = 2.0
    """What its first steps, without a past, leave of the order if a run starts from a state that tells of the data."""

    @abstractmethod
    def advance(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past) -> tuple[Tensor, Tensor, Past]:
        """``x`` at ``step.now`` and the past -> the state at ``step.next``, its mean, and the new past."""

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """Not available: without its past every step would be a first one, of a lower order."""
        raise TypeError(f"{type(self).__name__} uses previous steps: call advance and pass on the past that it returns")


def advance(
    predictor: Predictor, x: Tensor, step: Step, model: ScoreModel, noise: Draw, past: Past
) -> tuple[Tensor, Tensor, Past]:
    """A loop's step: that of the predictor, unless it starts where there is no signal (alpha = 0).

    There x / alpha has no limit, and all predictors take the step that is exact where D = E[x_0 | x] is constant,
    alpha' D + (sigma' / sigma) x, in which x is noise that is independent of the data. It leaves no past.
    """
    now, ahead = step.now, step.next
    if not isinstance(now.alpha, NUMBER) or now.alpha or predictor.idle:
        return predictor.advance(x, step, model, noise, past)
    x = ahead.alpha * model.denoised(x, now) + ahead.sigma / now.sigma * x
    return x, x, ()


def rows_of_past(past: Any, rows: Tensor) -> Any:
    """``rows`` of every tensor in a past, which is made of tuples, lists and tensors with one row per sample."""
    if isinstance(past, Tensor):
        return past[rows]
    return type(past)(rows_of_past(part, rows) for part in past) if isinstance(past, list | tuple) else past


class Corrector(Method):
    """MCMC steps that leave the marginal at ``step.now`` invariant as their size goes to zero."""

    @abstractmethod
    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """``x`` (B, ...) at ``step.now`` -> the corrected state and its mean, both like ``x``."""

    def shrunk(self, factor: float) -> Self | None:
        """The corrector with its step sizes divided by ``factor``, or None if it makes no step."""
        return None
