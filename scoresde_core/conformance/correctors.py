r"""Correctors: the exact marginal is invariant as the steps shrink, and bookkeeping is exact.

Any step, however wrong, changes nothing as its size goes to zero, so the change of the moments is measured against the
distance moved. For Langevin steps of size e on N(mu, v I) the second moment changes by e^2/v and the squared distance
is 2 e in a dimension: the ratio vanishes with e. A step with too little or too much noise has a ratio that stays.

Every draw is used with both signs, which removes the largest part of the statistical error. Step sizes that follow
norms of the sample itself (the paper's formula for one sample) are invariant up to 1/D in D dimensions only, so
dimensions are many and :data:`PER_SAMPLE` of them is allowed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..schedule import Schedule, Step
from ..sde import SDE
from ..steps import Corrector
from .exact import Silent, Watched, by_row, gaussian, sdes, times_between
from .samplers import steps_split_alike
from .suite import Subject

PAIRS, DIMENSIONS = 128, 512
FACTOR = 1000.0
PER_SAMPLE = 4 / DIMENSIONS


def _steps(sde: SDE) -> list[Step]:
    """Steps at high, middle and low noise."""
    schedule = Schedule(sde, times_between(sde, 40, last=0.1))
    return [schedule[k] for k in (5, 20, 38)]


def _paired(x: Tensor) -> tuple[Tensor, Tensor]:
    """A marginal's draws, each twice, and one draw of noise with both signs."""
    z = torch.randn_like(x)
    return torch.cat([x, x]), torch.cat([z, -z])


def leaves_the_marginal(subject: Subject) -> None:
    """With small steps, mean and variance of the exact marginal change by far less than the distance moved."""
    corrector: Corrector = subject.component
    small = corrector.shrunk(FACTOR)
    for label, sde in sdes(subject):
        for step in _steps(sde):
            data = gaussian(0.5, 0.5, (DIMENSIONS,))
            mean, variance = data.coordinate(step.now)
            draws = torch.randn(PAIRS, DIMENSIONS, dtype=torch.float64)
            # Whitened over the batch, so that the draws have the moments of the marginal exactly.
            draws = (draws - draws.mean()) / draws.std(correction=0)
            x, _ = _paired(mean + math.sqrt(variance) * draws)
            moved, _ = (small or corrector).correct(x, step, Watched(data), _antithetic(x))
            if small is None:
                assert torch.equal(moved, x), "it cannot be shrunk (shrunk gave None), but it moves the state"
                continue
            _within_error(f"with {label} at t = {step.now.t:.2g}", (x - mean), (moved - mean), math.sqrt(variance))


def _antithetic(x: Tensor):  # type: ignore[no-untyped-def]
    """Noise for pairs: the second half hears the first half's, with the other sign."""

    def noise() -> Tensor:
        return _paired(x[: len(x) // 2])[1]

    return noise


def _within_error(where: str, before: Tensor, after: Tensor, std: float) -> None:
    """The changes of mean and variance a unit of squared distance are 0 within 4 standard errors and 1/D."""
    distance = float((after - before).square().mean())
    assert distance > 0, f"{where}: shrunk({FACTOR:g}) does not move the state at all"
    changes = {"mean": (after - before) * std, "variance": after.square() - before.square()}
    for name, change in changes.items():
        # Pairs share their noise: their means are the independent values.
        values = (change.reshape(2, -1).mean(0)) / distance
        found, spread = float(values.mean()), float(values.std()) / math.sqrt(values.numel())
        assert abs(found) <= 4 * spread + PER_SAMPLE, (
            f"{where}: in small steps the {name} changes by {found:+.3f} of the squared distance moved, "
            f"expected 0 within {4 * spread + PER_SAMPLE:.3f}: the marginal is not invariant"
        )


def shrinks_its_steps(subject: Subject) -> None:
    """``shrunk(f)`` divides step sizes by f: the squared distance falls by f, to 10 %."""
    corrector: Corrector = subject.component
    for label, sde in sdes(subject):
        step = _steps(sde)[1]
        data = gaussian(0.5, 0.5, (DIMENSIONS,))
        distances = []
        for factor in (100.0, 400.0):
            small = corrector.shrunk(factor)
            if small is None:
                break
            x = step.now.alpha * data.sample(PAIRS).double() + step.now.sigma * torch.randn(PAIRS, DIMENSIONS).double()
            moved, _ = small.correct(x, step, Watched(data), lambda x=x: torch.randn_like(x))
            distances.append(float((moved - x).square().mean()))
        if distances:
            found = distances[0] / distances[1]
            assert abs(found / 4 - 1) <= 0.1, (
                f"{label}: from shrunk(100) to shrunk(400) the squared distance falls by {found:.2f}, expected 4"
            )


def counts_are_stable(subject: Subject) -> None:
    """Every call evaluates the model equally often, through its counter."""
    step = _steps(sdes(subject)[0][1])[1]
    for variant, corrector in subject.variants():
        counts = []
        for rows in (1, 7, 7):
            model, x = Watched(gaussian(event=(3,))), torch.randn(rows, 3)
            corrector.correct(x, step, model, lambda x=x: torch.randn_like(x))
            assert model.calls == model.evaluations, (
                f"{variant} ran the model {model.evaluations} times, but {model.calls} were counted"
            )
            counts.append(model.calls)
        assert len(set(counts)) == 1, f"{variant} evaluates the model {counts} times in three calls"


def keeps_shape_and_dtype(subject: Subject) -> None:
    """The state and its mean are finite and like x, for any rank and float dtype; x is left as it was."""
    for variant, corrector in subject.variants():
        for label, sde in sdes(subject):
            times = torch.tensor([1.0, 0.5, sde.t_min, 0.0], dtype=torch.float64)
            for step in Schedule(sde, times).steps:
                for shape, dtype in (((5, 2), torch.float32), ((5, 3, 4, 4), torch.float64)):
                    x = torch.randn(shape, dtype=dtype)
                    kept = x.clone()
                    moved = corrector.correct(
                        x, step, Watched(gaussian(event=shape[1:])), lambda x=x: torch.randn_like(x)
                    )
                    assert torch.equal(x, kept), f"{variant} with {label} changed x in place"
                    for name, value in zip(("state", "mean"), moved, strict=True):
                        found = (tuple(value.shape), value.dtype)
                        assert found == (shape, dtype), f"{variant} with {label}: the {name} is {found}"
                        assert bool(value.isfinite().all()), (
                            f"{variant} with {label}: the {name} is not finite at t = {step.now.t}"
                        )


def survives_a_silent_score(subject: Subject) -> None:
    """A score of zero, as of a network before its training, leaves the state finite."""
    for variant, corrector in subject.variants():
        for label, sde in sdes(subject):
            x = torch.randn(4, 6)
            moved, _ = corrector.correct(x, _steps(sde)[1], Silent(), lambda x=x: torch.randn_like(x))
            assert bool(moved.isfinite().all()), f"{variant} with {label}: a score of zero gives {moved.flatten()[0]}"


def takes_a_time_per_row(subject: Subject) -> None:
    """Decoupled, a step whose numbers are tensors of one value a row is what each row's own step gives."""
    for variant, chosen in subject.variants():
        corrector = chosen.decoupled()
        for label, sde in sdes(subject):
            stacked, steps = by_row(sde, times_between(sde, 6), 4, 2)
            data, x, z = gaussian(event=(3, 2)), torch.randn(4, 3, 2).double(), torch.randn(4, 3, 2).double()
            found = corrector.correct(x, stacked, Watched(data), lambda z=z: z)
            apart = [
                corrector.correct(x[k : k + 1], step, Watched(data), lambda k=k, z=z: z[k : k + 1])
                for k, step in enumerate(steps)
            ]
            for name, value, rows in zip(("state", "mean"), found, zip(*apart, strict=True), strict=True):
                gap = float((value - torch.cat(rows)).abs().max())
                assert gap <= 1e-9 * float(value.abs().max()), (
                    f"{variant} with {label}: with one time a row the {name} is off by {gap:.3g}"
                )


CHECKS = (
    leaves_the_marginal,
    shrinks_its_steps,
    counts_are_stable,
    keeps_shape_and_dtype,
    survives_a_silent_score,
    takes_a_time_per_row,
    steps_split_alike,
)
