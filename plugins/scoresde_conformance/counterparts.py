"""What a component is combined with: its variants and the SDEs. Failures name both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from scoresde_core.components import Spec, parameters
from scoresde_core.errors import ScoreSDEError
from scoresde_core.kinds import KINDS
from scoresde_core.noise import Draw
from scoresde_core.sampler import Sampler, sample
from scoresde_core.schedule import Schedule, Step
from scoresde_core.sde import SDE, Level

from .candidate import Candidate, Skip
from .exact import ConstantRateSDE, GrowingSDE, Mixture, PlainSampler, StraightSDE, Watched

FEW = 6
"""Steps where only bookkeeping is checked."""
SHAPES: tuple[tuple[tuple[int, ...], torch.dtype], ...] = (((5, 2), torch.float32), ((5, 3, 4, 4), torch.float64))
"""Batches for steps."""
Moved = tuple[Tensor, Tensor]
"""The state after a step, and its mean."""


def sdes(candidate: Candidate, *, shipped: bool = True) -> list[tuple[str, SDE]]:
    """Return the suite's own SDEs (variance-preserving, exploding, without signal at the end), then the registry's."""
    return [
        ("the suite's own sde", ConstantRateSDE()),
        ("the suite's own growing sde", GrowingSDE()),
        ("the suite's own straight sde", StraightSDE()),
        *((f"sde {name}", sde) for name, sde in candidate.partners("sdes", shipped=shipped) if _is_plain(sde)),
    ]


def _is_plain(sde: SDE) -> bool:
    """Whether it has one alpha and sigma, and needs to know nothing of its events."""
    return sde.form == "scalar" and not sde.needs


def pairs(
    candidate: Candidate, skip: Callable[[Any, SDE], str | None] | None = None, *, crossed: bool = False
) -> Iterator[tuple[Any, SDE]]:
    """Yield every variant of the component with the first SDE, and the component itself with every SDE.

    Combinations refused by its own ``skip``, or another, are left out. ``crossed`` checks combine every variant with
    every SDE at the full level. The quick level omits the SDEs that ship with scoresde, unless the component refuses
    all others, so that it does not take longer with every new SDE.
    """
    served = False
    for v, (variant, component) in enumerate(candidate.variants()):
        for s, (label, sde) in enumerate(sdes(candidate, shipped=candidate.full)):
            if not v or not s or (crossed and candidate.full):
                candidate.trying = f"{variant} under {label}"
                if (skip(component, sde) if skip else component.skip(sde)) is None:
                    served = True
                    yield component, sde
    if not served and not candidate.full:
        for label, sde in sdes(candidate):
            candidate.trying = f"{candidate.name} under {label}"
            if (skip(candidate.component, sde) if skip else candidate.component.skip(sde)) is None:
                yield candidate.component, sde
    candidate.trying = ""


def served(candidate: Candidate) -> Iterator[SDE]:
    """Yield the SDEs of :func:`pairs` that the component itself accepts."""
    return (sde for component, sde in pairs(candidate) if component is candidate.component)


def by_row(schedules: list[Schedule], rank: int) -> list[Step]:
    """Return steps with columns (rows, 1, ...) of ``rank`` + 1 axes: row r makes the steps of ``schedules[r]``."""

    def stacked(steps: tuple[Step, ...]) -> Step:
        def column(values: list[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).reshape(-1, *[1] * rank)

        def level(which: str) -> Level:
            levels = [getattr(step, which) for step in steps]
            return Level(*(column([getattr(level, name) for level in levels]) for name in ("t", "alpha", "sigma")))

        apart = ("index", "count", "now", "next", "sde")
        numbers = [field.name for field in attrs.fields(Step) if field.name not in apart]
        columns: dict[str, Any] = {name: column([getattr(step, name) for step in steps]) for name in numbers}
        return attrs.evolve(steps[0], now=level("now"), next=level("next"), **columns)

    return [stacked(steps) for steps in zip(*(schedule.steps for schedule in schedules), strict=True)]


def are_like(x: Tensor, moved: Moved, where: str) -> None:
    """A state and its mean are finite, with the shape and dtype of ``x``."""
    for name, value in zip(("state", "mean"), moved, strict=True):
        found, expected = (tuple(value.shape), value.dtype), (tuple(x.shape), x.dtype)
        assert found == expected, f"the {name} is {found} {where}, expected {expected}, as x is"
        assert bool(value.isfinite().all()), f"the {name} is not finite {where}"


def are_close(found: Moved, alone: list[Moved], where: str) -> None:
    """A state and its mean are, to rounding, those of the separate rows."""
    for name, value, rows in zip(("state", "mean"), found, zip(*alone, strict=True), strict=True):
        gap = float((value - torch.cat(rows)).abs().max())
        assert gap <= 1e-9 * float(value.abs().max()), f"the {name} is off by {gap:.3g} {where}"


Take = Callable[[Tensor, Watched, Draw], Moved]
"""A step of a predictor or corrector: from a state, a model and noise to the new state and its mean."""


def has_a_noise_free_mean(take: Take, x: Tensor, data: Any) -> bool:
    """Check that noise drawn after the last evaluation is only in the state, not the mean; return whether there is any.

    Noise drawn before an evaluation may be in both: the score is that of the state with this noise.
    """
    model = Watched(data)
    take(x, model, partial(torch.randn_like, x))
    evaluations, late = model.evaluations, 0

    def attempt(sign: float) -> Moved:
        generator, model = torch.Generator().manual_seed(0), Watched(data)

        def noise() -> Tensor:
            nonlocal late
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            late += model.evaluations == evaluations
            return sign * z if model.evaluations == evaluations else z

        return take(x, model, noise)

    (state, mean), (mirrored, mirrored_mean) = attempt(1.0), attempt(-1.0)
    size = 1e-9 * float(state.abs().max())
    gap = float((mean - mirrored_mean).abs().max())
    assert gap <= size, f"the mean changes by {gap:.3g} with the sign of noise drawn after the last evaluation"
    gap = float((0.5 * (state + mirrored) - mean).abs().max())
    assert gap <= size, f"the state is off by {gap:.3g} from its mean, averaged over both signs of the last noise"
    return late > 0


def samplers_around(candidate: Candidate) -> list[tuple[str, Sampler]]:
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


def splits_alike(sampler: Sampler, sde: SDE) -> None:
    """12 samples at once equal those in batches of 5, to the rounding of different kernels."""
    sampler = sampler.decoupled()
    whole, parts = (samples_of(sampler, sde, (3,), 12, batch_size=size) for size in (None, 5))
    gap = float((whole - parts).abs().max())
    assert gap <= 1e-5 * max(1.0, float(whole.abs().max())), (
        f"samples drawn in batches of 5 differ by {gap:.3g} from the same samples drawn at once"
    )


def steps_split_alike(candidate: Candidate) -> None:
    """Within any sampler, seeded samples do not depend on the split into batches."""
    reasons = []
    for name, sampler in samplers_around(candidate):
        for label, sde in sdes(candidate):
            candidate.trying = f"{candidate.name} in {name} under {label}"
            reasons.append(sampler.skip(sde))
            if reasons[-1] is None:
                splits_alike(sampler, sde)
    if None not in reasons:
        raise Skip(reasons[0] or "")


def samples_of(sampler: Sampler, sde: SDE, shape: tuple[int, ...], n: int, **options: Any) -> Tensor:
    """Return ``n`` samples of the suite's mixture."""
    return sample(Watched(Mixture(event=shape), sde), sampler, n, **options).x
