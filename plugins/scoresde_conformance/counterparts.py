"""What a component is tried with: its variants and the SDEs. Whatever fails meanwhile is told with both of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from scoresde_core.noise import Draw
from scoresde_core.schedule import Schedule, Step
from scoresde_core.sde import SDE, Level

from .candidate import Candidate
from .exact import ConstantRateSDE, GrowingSDE, Watched


def sdes(candidate: Candidate, *, shipped: bool = True) -> list[tuple[str, SDE]]:
    """The suite's own two SDEs, one that preserves the variance and one that lets it grow; then the registry's."""
    return [
        ("the suite's own sde", ConstantRateSDE()),
        ("the suite's own growing sde", GrowingSDE()),
        *((f"sde {name}", sde) for name, sde in candidate.partners("sdes", shipped=shipped)),
    ]


def pairs(
    candidate: Candidate, skip: Callable[[Any, SDE], str | None] | None = None, *, crossed: bool = False
) -> Iterator[tuple[Any, SDE]]:
    """Every variant of the component with the first SDE, and the component as it is with every SDE.

    Without those that it refuses, by its own ``skip`` or another. ``crossed`` checks try every variant with every SDE
    at the full level. The quick level leaves out the SDEs that ship with scoresde, unless the component refuses all
    others: it does not take longer the more of them there are.
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
    """The SDEs of :func:`pairs` that the component as it is does not refuse."""
    return (sde for component, sde in pairs(candidate) if component is candidate.component)


def by_row(schedules: list[Schedule], rank: int) -> list[Step]:
    """Steps whose numbers are columns (rows, 1, ...) of ``rank`` + 1 axes: row r makes the steps of ``schedules[r]``.

    They share the memory of the first schedule.
    """

    def stacked(steps: tuple[Step, ...]) -> Step:
        def column(values: list[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).reshape(-1, *[1] * rank)

        def level(which: str) -> Level:
            levels = [getattr(step, which) for step in steps]
            return Level(*(column([getattr(level, name) for level in levels]) for name in ("t", "alpha", "sigma")))

        apart = ("index", "count", "now", "next", "sde", "_memory")
        numbers = [field.name for field in attrs.fields(Step) if field.name not in apart]
        columns: dict[str, Any] = {name: column([getattr(step, name) for step in steps]) for name in numbers}
        return attrs.evolve(steps[0], now=level("now"), next=level("next"), **columns)

    return [stacked(steps) for steps in zip(*(schedule.steps for schedule in schedules), strict=True)]


def are_like(x: Tensor, moved: tuple[Tensor, Tensor], where: str) -> None:
    """A state and its mean are finite and of the shape and dtype of ``x``."""
    for name, value in zip(("state", "mean"), moved, strict=True):
        found, expected = (tuple(value.shape), value.dtype), (tuple(x.shape), x.dtype)
        assert found == expected, f"the {name} is {found} {where}, expected {expected}, as x is"
        assert bool(value.isfinite().all()), f"the {name} is not finite {where}"


def are_close(found: tuple[Tensor, Tensor], alone: list[tuple[Tensor, Tensor]], where: str) -> None:
    """A state and its mean are, to rounding, those of the rows each by itself."""
    for name, value, rows in zip(("state", "mean"), found, zip(*alone, strict=True), strict=True):
        gap = float((value - torch.cat(rows)).abs().max())
        assert gap <= 1e-9 * float(value.abs().max()), f"the {name} is off by {gap:.3g} {where}"


Take = Callable[[Tensor, Watched, Draw], tuple[Tensor, Tensor]]
"""A step of a predictor or corrector: from a state, a model and noise to the new state and its mean."""


def has_a_noise_free_mean(take: Take, x: Tensor, data: Any) -> bool:
    """The noise drawn after the last evaluation is in the state and not in the mean; whether there is any.

    What is drawn before an evaluation may be in both: the score is that of the state with this noise.
    """
    model = Watched(data)
    take(x, model, partial(torch.randn_like, x))
    evaluations, late = model.evaluations, 0

    def attempt(sign: float) -> tuple[Tensor, Tensor]:
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
