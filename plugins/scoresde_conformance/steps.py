"""What predictors and correctors have in common: a step gives a state and its noise-free mean, each row by itself."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import KINDS, Draw, Level, Sampler, Schedule, ScoreSDEError, Spec, Step, parameters
from scoresde_core.steps import Corrector, Past, Predictor, advance
from .candidate import Candidate, Skip
from .counterparts import FEW, pairs, sdes, splits_alike
from .exact import PlainSampler, Watched, gaussian, times_between
from .expect import agree, is_like

SHAPES: tuple[tuple[tuple[int, ...], torch.dtype], ...] = (((5, 2), torch.float32), ((5, 3, 4, 4), torch.float64))
STEPS = 12
Take = Callable[[Tensor, Step, Any, Draw, Past], tuple[Tensor, Tensor, Past]]
"""From a state, a step, a model, noise and the past to the new state, its mean and the new past."""


def step_of(part: Predictor | Corrector) -> Take:
    """The step of a predictor or a corrector."""
    if isinstance(part, Predictor):
        return partial(advance, part)
    return lambda x, step, model, noise, past: (*part.correct(x, step, model, noise), past)


def has_a_mean_without_noise(candidate: Candidate) -> None:
    """Noise drawn after the last evaluation is in the state and not in the mean."""
    x = torch.randn(4, 2, dtype=torch.float64)
    steps = ((part, Schedule(sde, times_between(sde, STEPS))[3]) for part, sde in pairs(candidate))
    if not sum([_late_noise_is_apart(step_of(part), x, step) for part, step in steps]):
        raise Skip("it draws no noise after its last evaluation")


def _late_noise_is_apart(take: Take, x: Tensor, step: Step) -> int:
    """Return the number of draws after the last evaluation of two steps, in which these have opposite signs.

    Noise drawn before an evaluation may be in both: the score is that of the state with this noise.
    """
    data, late = gaussian(event=(2,)), 0
    first = Watched(data)
    take(x, step, first, partial(torch.randn_like, x), ())

    def attempt(sign: float) -> tuple[Tensor, Tensor, Past]:
        generator, model = torch.Generator().manual_seed(0), Watched(data)

        def noise() -> Tensor:
            nonlocal late
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            late += (is_late := model.evaluations == first.evaluations)
            return sign * z if is_late else z

        return take(x, step, model, noise, ())

    (state, mean, _), (mirrored, mirrored_mean, _) = attempt(1.0), attempt(-1.0)
    size = 1e-9 * float(state.abs().max())
    agree(mirrored_mean, mean, size, "the mean changes with the sign of noise drawn after the last evaluation by")
    average = 0.5 * (state + mirrored)
    agree(average, mean, size, "averaged over both signs of the last noise the state is off its mean by")
    return late


def counts_are_stable(candidate: Candidate) -> None:
    """Every run evaluates the model equally often, through its counter, and at least once a step if it converges."""
    for part, sde in pairs(candidate):
        counts = []
        for rows in (1, 7, 7):
            model, x, past = Watched(gaussian()), torch.randn(rows, 1), ()
            for step in Schedule(sde, times_between(sde, STEPS)).steps:
                x, _, past = step_of(part)(x, step, model, partial(torch.randn_like, x), past)
            told = f"{STEPS} steps ran the model {model.evaluations} times, but {model.calls} were counted"
            assert model.calls == model.evaluations, told
            counts.append(model.calls)
        assert len(set(counts)) == 1, f"three runs evaluate the model {counts} times, expected equal numbers"
        converges = isinstance(part, Predictor) and part.order is not None
        assert counts[0] >= STEPS or not converges, f"{STEPS} steps evaluate the model {counts[0]} times"


def keeps_shape_and_dtype(candidate: Candidate) -> None:
    """The state and its mean are finite and like x, for any rank and float dtype; x is not modified."""
    for part, sde in pairs(candidate, crossed=True):
        for shape, dtype in SHAPES:
            times = torch.tensor([1.0, 0.5, sde.t_min, 0.0], dtype=torch.float64)
            x, model, past = torch.randn(shape, dtype=dtype), Watched(gaussian(event=shape[1:])), ()
            for step in Schedule(sde, times).steps:
                kept = x.clone()
                state, mean, past = step_of(part)(x, step, model, partial(torch.randn_like, x), past)
                assert torch.equal(x, kept), f"a step from t = {step.now.t:g} changed x in place"
                are_like(x, state, mean, f"after a step from t = {step.now.t:g}")
                x = state


def are_like(x: Tensor, state: Tensor, mean: Tensor, where: str) -> None:
    """A state and its mean are finite, with the shape and dtype of ``x``."""
    for name, value in (("state", state), ("mean", mean)):
        is_like(f"the {name} {where}", value, x.shape, x.dtype)


def takes_a_time_per_row(candidate: Candidate) -> None:
    """Steps with one value per row (of a corrector when decoupled) lead where each row's own steps lead."""
    for part, sde in pairs(candidate):
        take = step_of(part.decoupled() if isinstance(part, Corrector) else part)
        x, *noises = torch.randn(7, 4, 3, 2, dtype=torch.float64)
        schedules = [Schedule(sde, times_between(sde, len(noises), last)) for last in (0.5, 0.3, 0.8, 1.5)]
        alone = [
            _several(take, x[row : row + 1], schedule.steps, [z[row : row + 1] for z in noises])
            for row, schedule in enumerate(schedules)
        ]
        stacked = [_by_row(steps) for steps in zip(*(schedule.steps for schedule in schedules), strict=True)]
        together = _several(take, x, stacked, noises)
        for name, value, rows in zip(("state", "mean"), together, zip(*alone, strict=True), strict=True):
            what = f"after {len(noises)} steps with one time per row the {name} is off that of each row's own steps by"
            agree(value, torch.cat(rows), 1e-9 * float(value.abs().max()), what)


def _several(take: Take, x: Tensor, steps: Sequence[Step], noises: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    mean, model, past = x, Watched(gaussian(event=(3, 2))), ()
    for step, z in zip(steps, noises, strict=True):
        x, mean, past = take(x, step, model, z.clone, past)
    return x, mean


def _by_row(steps: Sequence[Any]) -> Any:
    """Return a step, or a level, whose numbers are columns (rows, 1, 1) of those of ``steps``."""
    columns: dict[str, Any] = {}
    for field in attrs.fields(type(steps[0])):
        values = [getattr(step, field.name) for step in steps]
        if isinstance(values[0], float):
            columns[field.name] = torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
        elif isinstance(values[0], Level):
            columns[field.name] = _by_row(values)
    return attrs.evolve(steps[0], **columns)


def steps_split_alike(candidate: Candidate) -> None:
    """Within any sampler, seeded samples do not depend on the split into batches."""
    reasons = []
    for name, sampler in _samplers_around(candidate):
        for label, sde in sdes(candidate):
            candidate.trying = f"{candidate.name} in {name} under {label}"
            reasons.append(sampler.skip(sde))
            if reasons[-1] is None:
                splits_alike(sampler, sde)
    if None not in reasons:
        raise Skip(reasons[0] or "")


def _samplers_around(candidate: Candidate) -> list[tuple[str, Sampler]]:
    """Return the suite's sampler and those of the registry that take the candidate as a part, each with it."""
    place = KINDS[candidate.kind].singular
    found: list[tuple[str, Sampler]] = [("the suite's own sampler", PlainSampler(**{place: candidate.component}))]
    for entry in candidate.registry.entries("samplers"):
        label = candidate.counterpart(entry, shipped=candidate.full)
        if label is None:
            continue
        try:
            names = {p.name for p in parameters(candidate.registry.load("samplers", entry.qualified))}
            if place in names:
                given: dict[str, Any] = {place: candidate.component, **({"steps": FEW} if "steps" in names else {})}
                found.append((f"sampler {label}", candidate.registry.create("samplers", Spec(entry.qualified, given))))
        except ScoreSDEError:
            continue
    return found
