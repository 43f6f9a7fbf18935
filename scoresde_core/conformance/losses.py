"""Losses: the exact score is the minimiser, and the random numbers are those that were handed in.

The model is the exact score of a Gaussian with an error e (x + 1) in units of the noise. A loss is a weighted mean of
squares: its derivative at e = 0 has expectation zero, and it is higher on both sides.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..loss import Draws
from ..score import ScoreModel
from ..sde import SDE, Level
from .exact import Silent, gaussian, sdes
from .suite import Skip, Subject

SHAPES: tuple[tuple[int, ...], ...] = ((5, 2), (4, 3, 4, 4))
EVENTS, BATCHES, ERROR = 2048, 8, 0.3


class _Erring(ScoreModel):
    """The exact score of the kit's Gaussian plus e (x / std_t + 1) / sigma."""

    def __init__(self, error: Tensor) -> None:
        self.error, self.target = error, gaussian(event=(2,))

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """The score, off by the error."""
        spread = (level.alpha**2 * self.target.std**2 + level.sigma**2) ** 0.5
        score: Tensor = self.target.score(x, level) + self.error * (x / spread + 1) / level.sigma
        return score


def _served(subject: Subject) -> list[tuple[str, Any, SDE]]:
    """Every variant with every SDE that it does not refuse."""
    found = [
        (f"{variant} with {label}", loss, sde)
        for variant, loss in subject.variants()
        for label, sde in sdes(subject)
        if loss.skip(Silent(), sde) is None
    ]
    if not found:
        raise Skip("it refuses every SDE there is")
    return found


def the_exact_score_is_the_minimiser(subject: Subject) -> None:
    """At the exact score the loss has no slope within 5 standard errors, and an error of either sign raises it."""
    for label, loss, sde in _served(subject):
        slopes, rises = [], []
        for step in range(BATCHES):
            x, draws = gaussian(event=(2,)).sample(EVENTS, seed=step).double(), Draws(0, step, EVENTS)
            error = torch.zeros((), dtype=torch.float64, requires_grad=True)
            least = loss.per_sample(_Erring(error), sde, x, draws).mean()
            slopes.append(torch.autograd.grad(least, error)[0])
            for sign in (-ERROR, ERROR):
                off = loss.per_sample(_Erring(torch.tensor(sign, dtype=torch.float64)), sde, x, draws).mean()
                rises.append(off - least.detach())
        slope = torch.stack(slopes)
        bound = 5 * float(slope.std()) / math.sqrt(BATCHES)
        found = float(slope.mean())
        assert abs(found) <= bound, (
            f"{label}: the slope at the exact score is {found:.3g}, expected 0 within {bound:.2g}"
        )
        for side, rise in zip(("-", "+"), torch.stack(rises).reshape(BATCHES, 2).mean(0).tolist(), strict=True):
            assert rise > 0, f"{label}: an error of {side}{ERROR} changes the loss by {rise:.3g}, expected a rise"


def gives_one_number_an_event(subject: Subject) -> None:
    """The loss is (B,), finite, in the dtype of the data, for events of any shape."""
    for label, loss, sde in _served(subject):
        for shape in SHAPES:
            x = torch.randn(*shape)
            value = loss.per_sample(Silent(), sde, x, Draws(0, 0, len(x)))
            found, expected = (tuple(value.shape), value.dtype), ((len(x),), x.dtype)
            assert found == expected, f"{label}: the loss of {shape} is {found}, expected {expected}"
            assert bool(value.isfinite().all()), f"{label}: the loss of {shape} is not finite"


def draws_are_its_only_chance(subject: Subject) -> None:
    """The same draws give the same loss, other steps another, and a batch in parts the losses of the whole."""
    x = torch.randn(6, 3)
    for label, loss, sde in _served(subject):

        def of(first: int, last: int, step: int = 0, loss: Any = loss, sde: SDE = sde) -> Tensor:
            draws = Draws(0, step, last - first, start=first, total=6)
            value: Tensor = loss.per_sample(Silent(), sde, x[first:last], draws)
            return value

        whole = of(0, 6)
        assert torch.equal(whole, of(0, 6)), f"{label}: the same draws give another loss"
        assert not torch.equal(whole, of(0, 6, step=1)), f"{label}: another step gives the same loss"
        gap = float((whole - torch.cat([of(0, 4), of(4, 6)])).abs().max())
        assert gap == 0, f"{label}: in parts of 4 and 2 the loss is off by {gap:.3g} from the whole batch's"


CHECKS = (the_exact_score_is_the_minimiser, gives_one_number_an_event, draws_are_its_only_chance)
