"""Losses: the truth is the minimiser, and all randomness comes from the given draws.

The trained model is the truth with an error e in one direction: the exact score of a Gaussian plus e (x + 1) in units
of the noise, or the exact posterior of two components with e (x + 1) added to one of its logits. At e = 0 the
derivative of an expected loss is zero, and the loss is higher on both sides.

Expectations are means over points of a scrambled Sobol sequence (Owen 1997, doi:10.1214/aos/1031594731) instead of
random numbers: a few thousand points reveal an error of 2 % in the noise.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Draws, Level, Loss, ScoreModel, unserved
from scoresde_run import NoisyClassifier
from .candidate import Candidate, Skip
from .counterparts import pairs
from .exact import Mixture, gaussian
from .expect import agree, is_like, near, some

SHAPES: tuple[tuple[int, ...], ...] = ((5, 2), (4, 3, 4, 4))
EVENTS, BATCHES, ERROR = 1024, 16, 0.3
COLUMNS = 24  # dimensions of the Sobol sequence; further draws are pseudo-random


class _ErringScore(ScoreModel):
    """The exact score of the suite's Gaussian plus e (x / std_t + 1) / sigma."""

    def __init__(self, error: Tensor, sde: SDE) -> None:
        self.error, self.target, self.sde, self.shape = error, gaussian(event=(2,)), sde, (2,)

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        spread = (level.alpha**2 * self.target.std**2 + level.sigma**2) ** 0.5
        return self.target.score(x, level) + self.error * (x / spread + 1) / level.sigma


class _ErringClassifier(NoisyClassifier):
    """The exact posterior of the suite's two components, with one logit off by e (m / std_t + 1), m the mean of x."""

    classes = 2

    def __init__(self, error: Tensor, sde: SDE) -> None:
        self.error, self.target, self.sde = error, Mixture(), sde

    def log_probabilities(self, x: Tensor, level: Level) -> Tensor:
        logits, variance = self.target._logits(x, level)
        off = self.error * (x.flatten(1).mean(1) / variance.sqrt() + 1)
        return (logits + torch.stack([off, torch.zeros_like(off)], 1)).log_softmax(1)


class _Even(Draws):
    """Draws from a scrambled Sobol sequence, float64, with different columns for each purpose."""

    def __init__(self, scramble: int, count: int) -> None:
        super().__init__(scramble, "conformance", count)
        engine = torch.quasirandom.SobolEngine(COLUMNS, scramble=True, seed=scramble)  # type: ignore[no-untyped-call]
        points = engine.draw(count, dtype=torch.float64).clamp(2**-40, 1 - 2**-40)
        self.columns, self.used = points, 0

    def normal(self, like: Tensor, purpose: str = "noise") -> Tensor:
        found = self._next(tuple(like.shape[1:]))
        return super().normal(like, purpose) if found is None else torch.special.ndtri(found).to(like.dtype)

    def uniform(self, purpose: str = "time", *, shape: tuple[int, ...] = (), stratified: bool = False) -> Tensor:
        found = self._next(shape)
        return super().uniform(purpose, shape=shape, stratified=stratified) if found is None else found

    def _next(self, shape: tuple[int, ...]) -> Tensor | None:
        first, self.used = self.used, self.used + math.prod(shape)
        return None if self.used > COLUMNS else self.columns[:, first : self.used].reshape(-1, *shape)


class _Recorded(Draws):
    purposes: list[str]

    def normal(self, like: Tensor, purpose: str = "noise") -> Tensor:
        self.purposes.append(purpose)
        return super().normal(like, purpose)

    def uniform(self, purpose: str = "time", **how: Any) -> Tensor:
        self.purposes.append(purpose)
        return super().uniform(purpose, **how)


@attrs.frozen(eq=False)
class _Trained:
    """What a loss can train: the truth with an error, for events of any shape, and the data of the truth."""

    what: str
    erring: Callable[[Tensor, SDE], Any]
    target: Mixture

    def plain(self, sde: SDE) -> Any:
        return self.erring(torch.zeros(()), sde)

    def known(self, needs: tuple[str, ...], x: Tensor) -> dict[str, Tensor]:
        """Return components drawn from their posterior: with ``x`` from the target, their law is joint."""
        missing = [name for name in needs if name != "labels"]
        if missing:
            raise Skip(f"it needs {', '.join(missing)}, for which the suite has no ground truth")
        shares, generator = self.target.responsibilities(x), torch.Generator().manual_seed(0)
        return {name: torch.multinomial(shares, 1, generator=generator).squeeze(1) for name in needs}

    def events(self, draws: Draws) -> Tensor:
        """Return events of the target, float64, made from draws."""
        u = draws.uniform("component").contiguous()
        component = torch.bucketize(u, torch.tensor(self.target.weights).double().cumsum(0)[:-1])
        means = torch.tensor(self.target.means, dtype=torch.float64)[component].unsqueeze(1)
        z = draws.normal(means.expand(-1, *self.target.shape), "event")
        return means + self.target.std * z


_TRAINED: Mapping[type, _Trained] = {
    ScoreModel: _Trained("score", _ErringScore, gaussian(event=(2,))),
    NoisyClassifier: _Trained("posterior", _ErringClassifier, Mixture()),
}


def _served(candidate: Candidate) -> Iterator[tuple[Any, _Trained, SDE]]:
    trains = candidate.component.trains
    if trains not in _TRAINED:
        raise Skip(f"it trains a {trains.__name__}, for which the suite has no ground truth")
    trained = _TRAINED[trains]
    found = pairs(candidate, lambda loss, sde: unserved(loss, sde) or loss.skip(trained.plain(sde)))
    return ((loss, trained, sde) for loss, sde in some(found, "it refuses every SDE that was tried"))


def the_truth_is_the_minimiser(candidate: Candidate) -> None:
    """At the exact score (or posterior) the loss has no slope within 5 standard errors; errors raise it."""
    for loss, trained, sde in _served(candidate):
        slopes, rises = [], []
        for scramble in range(BATCHES):
            draws = _Even(scramble, EVENTS)
            x = trained.events(draws)
            first, known = draws.used, trained.known(loss.needs, x)
            error = torch.zeros((), dtype=torch.float64, requires_grad=True)
            least = loss.per_sample(trained.erring(error, sde), x, draws, **known).mean()
            slopes.append(torch.autograd.grad(least, error)[0])
            for sign in (-ERROR, ERROR) if scramble < 2 else ():
                draws.used = first
                wrong = trained.erring(torch.tensor(sign, dtype=torch.float64), sde)
                rises.append(loss.per_sample(wrong, x, draws, **known).mean() - least.detach())
        slope = torch.stack(slopes)
        bound = 5 * float(slope.std()) / math.sqrt(BATCHES) + 1e-9
        near(f"the slope of per_sample at the exact {trained.what}", slope.mean(), 0, bound)
        # The mean over both signs cancels the part that is linear in the error, whose noise would hide the rise.
        rise = float(torch.stack(rises).detach().mean())
        told = f"errors of -{ERROR} and {ERROR} in the {trained.what} change per_sample by {rise:.3g}, expected a rise"
        assert rise > 0, told


def gives_one_number_an_event(candidate: Candidate) -> None:
    """The loss is (B,), finite, in the dtype of the data, for events of any shape."""
    for loss, trained, sde in _served(candidate):
        for shape in SHAPES:
            x = torch.randn(*shape)
            value = loss.per_sample(trained.plain(sde), x, Draws(0, 0, len(x)), **trained.known(loss.needs, x))
            is_like(f"per_sample of {shape}", value, x.shape[:1], x.dtype)


def _loss(loss: Loss, model: Any, x: Tensor, known: dict[str, Tensor], first: int, end: int, step: int = 0) -> Tensor:
    """Return the losses of some of the events, none of whose draws has the purpose of another."""
    draws = _Recorded(0, step, end - first, start=first, total=len(x))
    draws.purposes = []
    value = loss.per_sample(model, x[first:end], draws, **{name: rows[first:end] for name, rows in known.items()})
    twice = {purpose for purpose in draws.purposes if draws.purposes.count(purpose) > 1}
    assert not twice, f"per_sample draws {sorted(twice)[0]!r} more than once, which gives the same numbers"
    return value


def draws_are_its_only_chance(candidate: Candidate) -> None:
    """The same draws give the same loss, another step another loss, and parts of a batch the losses of the whole.

    No purpose is drawn twice: the numbers would be the same.
    """
    x = torch.randn(6, 3)
    for loss, trained, sde in _served(candidate):
        of = partial(_loss, loss, trained.plain(sde), x, trained.known(loss.needs, x))
        whole = of(0, 6)
        assert torch.equal(whole, of(0, 6)), "the same draws give another loss"
        assert not torch.equal(whole, of(0, 6, step=1)), "another step gives the same loss"
        parts = torch.cat([of(0, 4), of(4, 6)])
        agree(parts, whole, 0, "in parts of 4 and 2 the loss is off the whole batch's by")
