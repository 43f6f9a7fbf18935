"""Losses: the truth is the minimiser, and the random numbers are those that were handed in.

What is trained is the truth with an error e in one direction: the exact score of a Gaussian plus e (x + 1) in units of
the noise, or the exact posterior of two components with e (x + 1) added to one of its logits. At e = 0 the derivative
of an expected loss is zero, and it is higher on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ..classifier import NoisyClassifier
from ..loss import Draws, Loss
from ..score import ScoreModel
from ..sde import SDE, Level
from .exact import Mixture, Silent, gaussian, sdes
from .suite import Skip, Subject

SHAPES: tuple[tuple[int, ...], ...] = ((5, 2), (4, 3, 4, 4))
EVENTS, BATCHES, ERROR = 2048, 8, 0.3


class _ErringScore(ScoreModel):
    """The exact score of the kit's Gaussian plus e (x / std_t + 1) / sigma."""

    def __init__(self, error: Tensor) -> None:
        self.error, self.target = error, gaussian(event=(2,))

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """The score, off by the error."""
        spread = (level.alpha**2 * self.target.std**2 + level.sigma**2) ** 0.5
        score: Tensor = self.target.score(x, level) + self.error * (x / spread + 1) / level.sigma
        return score


class _ErringClassifier(NoisyClassifier):
    """The exact posterior of the kit's two components, one logit off by e (m / std_t + 1), m the mean of x."""

    classes = 2

    def __init__(self, error: Tensor) -> None:
        self.error, self.target = error, Mixture()

    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        """The log posterior, off by the error."""
        logits, variance = self.target._logits(x, level)
        off = self.error * (x.flatten(1).mean(1) / variance.sqrt() + 1)
        return (logits + torch.stack([off, torch.zeros_like(off)], 1)).log_softmax(1)


class _BySign(NoisyClassifier):
    """Two classes by the sign of the mean, for any shape."""

    classes = 2

    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        """log sigmoid of the mean, and of its negative."""
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, -mean], 1).log_softmax(1)


def _labels(target: Mixture, x: Tensor, seed: int) -> Tensor:
    """Components drawn from their posterior: with ``x`` from the target, the joint law."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(target.responsibilities(x), 1, generator=generator).squeeze(1)


@attrs.frozen(eq=False)
class _Trained:
    """What a loss may train: the truth with an error, something for any shape, and the data of the truth."""

    erring: Callable[[Tensor], Any]
    plain: Callable[[], Any]
    target: Mixture

    def known(self, needs: tuple[str, ...], x: Tensor, seed: int = 0) -> dict[str, Tensor]:
        """What the kit knows of events, of what is needed."""
        available = {"labels": _labels}
        missing = [name for name in needs if name not in available]
        if missing:
            raise Skip(f"it needs {', '.join(missing)}, of which the kit has no truth")
        return {name: available[name](self.target, x, seed) for name in needs}


_TRAINED: Mapping[type, _Trained] = {
    ScoreModel: _Trained(_ErringScore, Silent, gaussian(event=(2,))),
    NoisyClassifier: _Trained(_ErringClassifier, _BySign, Mixture()),
}


def _trained(loss: Loss) -> _Trained:
    """What this loss trains."""
    if loss.trains not in _TRAINED:
        raise Skip(f"it trains a {loss.trains.__name__}, of which the kit has no truth")
    return _TRAINED[loss.trains]


def _served(subject: Subject) -> list[tuple[str, Any, _Trained, SDE]]:
    """Every variant with every SDE that it does not refuse."""
    found = [
        (f"{variant} with {label}", loss, _trained(loss), sde)
        for variant, loss in subject.variants()
        for label, sde in sdes(subject)
        if loss.skip(_trained(loss).plain(), sde) is None
    ]
    if not found:
        raise Skip("it refuses every SDE there is")
    return found


def the_truth_is_the_minimiser(subject: Subject) -> None:
    """At the exact score (or posterior) the loss has no slope within 5 standard errors; errors raise it."""
    for label, loss, trained, sde in _served(subject):
        slopes, rises = [], []
        for step in range(BATCHES):
            x, draws = trained.target.sample(EVENTS, seed=step).double(), Draws(0, step, EVENTS)
            known = trained.known(loss.needs, x, step)
            error = torch.zeros((), dtype=torch.float64, requires_grad=True)
            least = loss.per_sample(trained.erring(error), sde, x, draws, **known).mean()
            slopes.append(torch.autograd.grad(least, error)[0])
            for sign in (-ERROR, ERROR):
                wrong = trained.erring(torch.tensor(sign, dtype=torch.float64))
                rises.append(loss.per_sample(wrong, sde, x, draws, **known).mean() - least.detach())
        slope = torch.stack(slopes)
        bound = 5 * float(slope.std()) / math.sqrt(BATCHES)
        found = float(slope.mean())
        assert abs(found) <= bound, f"{label}: the slope at the truth is {found:.3g}, expected 0 within {bound:.2g}"
        for side, rise in zip(("-", "+"), torch.stack(rises).reshape(BATCHES, 2).mean(0).tolist(), strict=True):
            assert rise > 0, f"{label}: an error of {side}{ERROR} changes the loss by {rise:.3g}, expected a rise"


def gives_one_number_an_event(subject: Subject) -> None:
    """The loss is (B,), finite, in the dtype of the data, for events of any shape."""
    for label, loss, trained, sde in _served(subject):
        for shape in SHAPES:
            x = torch.randn(*shape)
            value = loss.per_sample(trained.plain(), sde, x, Draws(0, 0, len(x)), **trained.known(loss.needs, x))
            found, expected = (tuple(value.shape), value.dtype), ((len(x),), x.dtype)
            assert found == expected, f"{label}: the loss of {shape} is {found}, expected {expected}"
            assert bool(value.isfinite().all()), f"{label}: the loss of {shape} is not finite"


def draws_are_its_only_chance(subject: Subject) -> None:
    """The same draws give the same loss, other steps another, and a batch in parts the losses of the whole."""
    x = torch.randn(6, 3)
    for label, loss, trained, sde in _served(subject):
        known = trained.known(loss.needs, x)

        def of(first: int, last: int, step: int = 0, of: Any = (loss, trained, sde, known)) -> Tensor:
            loss, trained, sde, known = of
            draws = Draws(0, step, last - first, start=first, total=6)
            rows = {name: values[first:last] for name, values in known.items()}
            value: Tensor = loss.per_sample(trained.plain(), sde, x[first:last], draws, **rows)
            return value

        whole = of(0, 6)
        assert torch.equal(whole, of(0, 6)), f"{label}: the same draws give another loss"
        assert not torch.equal(whole, of(0, 6, step=1)), f"{label}: another step gives the same loss"
        gap = float((whole - torch.cat([of(0, 4), of(4, 6)])).abs().max())
        assert gap == 0, f"{label}: in parts of 4 and 2 the loss is off by {gap:.3g} from the whole batch's"


CHECKS = (the_truth_is_the_minimiser, gives_one_number_an_event, draws_are_its_only_chance)
