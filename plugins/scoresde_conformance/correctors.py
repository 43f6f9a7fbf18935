"""Correctors: the exact marginal is invariant as the steps shrink, and the bookkeeping is exact.

Any step, however wrong, changes nothing as its size goes to zero, so the change of the moments is measured relative to
the distance moved. For Langevin steps of size e on N(mu, v I) the second moment changes by e^2/v and the squared
distance is 2 e per dimension: the ratio vanishes with e. With too little or too much noise the ratio does not vanish.

Every draw is used with both signs, which removes most of the statistical error. There are few dimensions and many
draws, since a step size that follows the norms of the sample itself changes the law by 1/D in D dimensions.
"""

import math
from functools import partial

import torch
from torch import Tensor
from scoresde_core import SDE, Schedule, Step
from .candidate import Candidate, Skip
from .counterparts import pairs, served
from .exact import Scaled, Watched, gaussian, times_between
from .expect import is_zero
from .steps import are_like

PAIRS, DIMENSIONS = 8192, 8
FACTOR = 1000.0


def _both_signs(half: Tensor) -> Tensor:
    """Noise whose second half of rows is the first half, like ``half``, with the opposite sign."""
    z = torch.randn_like(half)
    return torch.cat([z, -z])


def _steps(sde: SDE) -> list[Step]:
    schedule = Schedule(sde, times_between(sde, 40, last=0.1))
    return [schedule[k] for k in (5, 20, 38)]


def leaves_the_marginal(candidate: Candidate) -> None:
    """With small steps, mean and variance of the exact marginal change by far less than the distance moved."""
    data = gaussian(0.5, 0.5, (DIMENSIONS,))
    for corrector, sde in pairs(candidate):
        small = corrector.shrunk(FACTOR)
        for step in _steps(sde):
            mean, variance = data.coordinate(step.now)
            draws = torch.randn(PAIRS, DIMENSIONS, dtype=torch.float64)
            # Standardised, so that the draws have exactly the moments of the marginal.
            draws = (draws - draws.mean()) / draws.std(correction=0)
            before = (math.sqrt(variance) * draws).repeat(2, 1)
            x = mean + before
            moved, _ = (small or corrector).correct(x, step, Watched(data), partial(_both_signs, x[:PAIRS]))
            if small is None:
                assert torch.equal(moved, x), "shrunk returns None, which means no step, but correct moves x"
                continue
            distance, at = float((moved - x).square().mean()), f"at t = {float(step.now.t):.2g}"
            assert distance > 0, f"shrunk({FACTOR:g}) does not move the state {at}"
            changes = {"mean": (moved - x) * math.sqrt(variance), "variance": (moved - mean).square() - before.square()}
            for name, change in changes.items():
                # Pairs share their noise, so the means of pairs are the independent values.
                values = (change.reshape(2, -1).mean(0) / distance).flatten()
                told = f"the marginal is not invariant: {at}, per squared distance of small steps, the {name}"
                is_zero(values, told, verb="changes by")


def shrinks_its_steps(candidate: Candidate) -> None:
    """``shrunk(f)`` divides step sizes by f: the squared distance falls by f, within 10 %."""
    smaller = [candidate.component.shrunk(factor) for factor in (100.0, 400.0)]
    if None in smaller:
        raise Skip("its steps cannot be shrunk")
    data = gaussian(0.5, 0.5, (DIMENSIONS,))
    for sde in served(candidate):
        step = _steps(sde)[1]
        x = step.now.alpha * data.sample(PAIRS).double() + step.now.sigma * torch.randn(PAIRS, DIMENSIONS).double()
        moved = [small.correct(x, step, Watched(data), partial(torch.randn_like, x))[0] for small in smaller]
        distances = [float((y - x).square().mean()) for y in moved]
        found = distances[0] / max(distances[1], 1e-300)
        told = f"from shrunk(100) to shrunk(400) the squared distance falls by {found:.2f}, expected 4"
        assert abs(found / 4 - 1) <= 0.1, told


def survives_a_silent_score(candidate: Candidate) -> None:
    """A score of zero, as of an untrained network, gives a finite state."""
    for corrector, sde in pairs(candidate):
        x, silent = torch.randn(4, 6), Scaled(gaussian(event=(6,)), 0.0, sde)
        state, mean = corrector.correct(x, _steps(sde)[1], silent, partial(torch.randn_like, x))
        are_like(x, state, mean, "where the score is zero")
