"""Samplers: right samples, the same for the same seed, and for any split into batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..components import Spec, parameters
from ..errors import ScoreSDEError
from ..kinds import KINDS
from ..sampler import Sampler, sample
from ..sde import SDE
from .exact import Mixture, Watched, gaussian, sdes
from .suite import Skip, Subject

SHAPES = ((2,), (1, 4, 4), (3, 4, 6))
FEW = 6
"""Steps where only bookkeeping is checked."""
MANY = 1000
"""Steps after which moments are right to within the error of 2000 samples."""


def short(subject: Subject, steps: int = FEW) -> Sampler:
    """The sampler with so many steps, where it has a number of them and none was asked for."""
    takes_steps = "steps" in {p.name for p in parameters(subject.cls)} and "steps" not in subject.params
    sampler: Sampler = subject.build(steps=steps) if takes_steps else subject.component
    return sampler


def served(subject: Subject) -> list[tuple[str, SDE]]:
    """The SDEs that the sampler does not refuse."""
    return [(label, sde) for label, sde in sdes(subject) if subject.component.skip(sde) is None]


def samplers_around(subject: Subject) -> list[tuple[str, Sampler]]:
    """Every sampler of the registry that has a place for a component of this kind, with the subject in it."""
    place, found = KINDS[subject.kind].singular, []
    for entry in subject.registry.entries("samplers"):
        try:
            names = {p.name for p in parameters(subject.registry.load("samplers", entry.qualified))}
            if place in names:
                given: dict[str, Any] = {place: subject.component, **({"steps": FEW} if "steps" in names else {})}
                spec = Spec(entry.qualified, given)
                found.append((entry.row.name, subject.registry.create("samplers", spec)))
        except ScoreSDEError:
            continue
    return found


def splits_alike(sampler: Sampler, sde: SDE, label: str) -> None:
    """12 samples at once are those in batches of 5, to the rounding of different kernels."""
    sampler = sampler.decoupled()
    whole, parts = (_samples(sampler, sde, (3,), 12, batch_size=size) for size in (None, 5))
    gap = float((whole - parts).abs().max())
    assert gap <= 1e-5 * max(1.0, float(whole.abs().max())), (
        f"{label}: samples drawn in batches of 5 differ by {gap:.3g} from the same samples drawn at once"
    )


def steps_split_alike(subject: Subject) -> None:
    """Within any sampler, seeded samples do not depend on how they are split into batches."""
    reason: str | None = f"no sampler of the registry has a place for a {KINDS[subject.kind].singular}"
    tried = False
    for name, sampler in samplers_around(subject):
        for label, sde in sdes(subject):
            reason = sampler.skip(sde)
            if reason is None:
                tried = True
                splits_alike(sampler, sde, f"{name} with {label}")
    if not tried:
        raise Skip(reason or "")


def is_split_invariant(subject: Subject) -> None:
    """Seeded samples do not depend on how they are split into batches."""
    for label, sde in served(subject):
        splits_alike(short(subject), sde, label)


def follows_the_seed(subject: Subject) -> None:
    """The same seed gives the same samples, another seed others."""
    for label, sde in served(subject):
        sampler = short(subject)
        first, again, other = (_samples(sampler, sde, (3,), 8, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again), f"{label}: two runs with seed 1 differ"
        assert not torch.allclose(first, other), f"{label}: seeds 1 and 2 give the same samples"


def keeps_shape_and_dtype(subject: Subject) -> None:
    """n finite samples of the event's shape, in the dtype that was asked for."""
    for label, sde in served(subject):
        for shape in SHAPES:
            for dtype in (torch.float32, torch.float64):
                x = _samples(short(subject), sde, shape, 3, dtype=dtype)
                found = (tuple(x.shape), x.dtype)
                assert found == ((3, *shape), dtype), f"{label}: found {found}, expected {((3, *shape), dtype)}"
                assert bool(x.isfinite().all()), f"{label}: samples of shape {shape} are not finite"


def starts_from_the_latent(subject: Subject) -> None:
    """A latent is where it starts: it decides the samples, and is left as it was."""
    for label, sde in served(subject):
        latent = sde.prior.from_noise(torch.randn(4, 3))
        kept = latent.clone()
        first, second = (_samples(short(subject), sde, (3,), 4, latent=z) for z in (latent, latent + sde.prior.std))
        assert torch.equal(latent, kept), f"{label}: the latent was changed in place"
        assert not torch.allclose(first, second), f"{label}: two latents give the same samples"


def counts_evaluations(subject: Subject) -> None:
    """The reported NFE is the number of evaluations of a sample, on average: none goes around the model's counter."""
    for label, sde in served(subject):
        model = Watched(Mixture(event=(3,)))
        found, expected = sample(model, sde, short(subject), (3,), 4).nfe, model.evaluated / 4
        assert found == expected > 0, f"{label}: NFE is {found}, but the model was run {expected:g} times on a sample"


def tells_of_its_steps(subject: Subject) -> None:
    """An observer hears of at least one step, and the count does not fall."""
    heard: list[int] = []
    sample(
        Watched(gaussian(event=(3,))), served(subject)[0][1], short(subject), (3,), 4,
        observe=lambda done, total, x: heard.append(done),
    )  # fmt: skip
    assert heard, "the observer was never called"
    assert heard == sorted(heard), f"the observer heard of steps {heard}, expected rising numbers"


def finds_the_moments(subject: Subject) -> None:
    """Samples of a Gaussian have its mean and variance, within 4 standard errors."""
    mean, std, n = 0.5, 0.5, 2000
    for label, sde in served(subject):
        x = sample(Watched(gaussian(mean, std, (2,))), sde, short(subject, MANY), (2,), n, seed=5).x.double().flatten()
        for name, found, expected, spread in (
            ("mean", float(x.mean()), mean, std),
            ("variance", float(x.var()), std**2, std**2 * math.sqrt(2)),
        ):
            off = (found - expected) / (spread / math.sqrt(x.numel()))
            assert abs(off) <= 4, (
                f"{label}: the {name} is {found:.4f}, expected {expected:.4f}: {off:+.1f} standard errors away"
            )


def _samples(sampler: Sampler, sde: SDE, shape: tuple[int, ...], n: int, **options: Any) -> Tensor:
    return sample(Watched(Mixture(event=shape)), sde, sampler, shape, n, **options).x


CHECKS = (
    is_split_invariant,
    follows_the_seed,
    keeps_shape_and_dtype,
    starts_from_the_latent,
    counts_evaluations,
    tells_of_its_steps,
    finds_the_moments,
)
