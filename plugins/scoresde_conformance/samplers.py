"""Samplers: right samples, the same for the same seed, and for any split into batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import attrs
import torch
from torch import Tensor

from scoresde_core.components import Spec, parameters
from scoresde_core.errors import ScoreSDEError, UsageError
from scoresde_core.kinds import KINDS
from scoresde_core.noise import Draw, Noise
from scoresde_core.sampler import Sampler, sample
from scoresde_core.schedule import Step
from scoresde_core.score import ScoreModel
from scoresde_core.sde import SDE, Level
from scoresde_core.steps import Corrector, Predictor

from .candidate import Candidate, Skip
from .counterparts import sdes, served
from .exact import Mixture, PlainCorrector, PlainPredictor, PlainSampler, Watched, gaussian

KINDS_OF_EVENTS = (((2,), torch.float32), ((1, 4, 4), torch.float64), ((3, 4, 6), torch.float32))
FEW = 6
"""Steps where only bookkeeping is checked."""
MANY = 400
"""Steps after which moments are right to within the error of 2000 events of two dimensions."""
BIAS = 0.01
"""Bias allowed to samples without a statistical error, in standard deviations, or relative to the variance."""


def short(candidate: Candidate, **parts: Any) -> Sampler:
    """The sampler with few steps, or with the parameters that its class calls ``coarse``, where none were asked for.

    It serves where only bookkeeping is checked.
    """
    names = {p.name for p in parameters(candidate.cls)}
    coarse = {"steps": FEW} if "steps" in names else getattr(candidate.cls, "coarse", {})
    given = {name: value for name, value in coarse.items() if name not in candidate.params}
    sampler: Sampler = candidate.build(**given, **parts)
    return sampler


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
    """12 samples at once are those in batches of 5, to the rounding of different kernels."""
    sampler = sampler.decoupled()
    whole, parts = (_samples(sampler, sde, (3,), 12, batch_size=size) for size in (None, 5))
    gap = float((whole - parts).abs().max())
    assert gap <= 1e-5 * max(1.0, float(whole.abs().max())), (
        f"samples drawn in batches of 5 differ by {gap:.3g} from the same samples drawn at once"
    )


def steps_split_alike(candidate: Candidate) -> None:
    """Within any sampler, seeded samples do not depend on how they are split into batches."""
    reasons = []
    tried = False
    for name, sampler in samplers_around(candidate):
        for label, sde in sdes(candidate):
            candidate.trying = f"{candidate.name} in {name} under {label}"
            reason = sampler.skip(sde)
            reasons.append(reason)
            if reason is None:
                tried = True
                splits_alike(sampler, sde)
    if not tried:
        raise Skip(reasons[0] or "")


def _served(candidate: Candidate) -> Iterator[SDE]:
    """The SDEs that the sampler does not refuse; the first of them at the quick level."""
    return islice(served(candidate), None if candidate.full else 1)


def is_split_invariant(candidate: Candidate) -> None:
    """Seeded samples do not depend on how they are split into batches."""
    for sde in _served(candidate):
        splits_alike(short(candidate), sde)


def follows_the_seed(candidate: Candidate) -> None:
    """The same seed gives the same samples, another seed others."""
    for sde in _served(candidate):
        sampler = short(candidate)
        first, again, other = (_samples(sampler, sde, (3,), 8, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again), "two runs with seed 1 differ"
        assert not torch.allclose(first, other), "seeds 1 and 2 give the same samples"


def keeps_shape_and_dtype(candidate: Candidate) -> None:
    """n finite samples of the event's shape, in the dtype that was asked for."""
    for sde in _served(candidate):
        for shape, dtype in KINDS_OF_EVENTS:
            x = _samples(short(candidate), sde, shape, 3, dtype=dtype)
            found = (tuple(x.shape), x.dtype)
            assert found == ((3, *shape), dtype), f"samples are {found}, expected {((3, *shape), dtype)}"
            assert bool(x.isfinite().all()), f"samples of shape {shape} are not finite"


def starts_from_the_latent(candidate: Candidate) -> None:
    """A latent is where it starts: it decides the samples, and is left as it was."""
    for sde in _served(candidate):
        latent = sde.prior.from_noise(torch.randn(4, 3))
        kept = latent.clone()
        first, second = (_samples(short(candidate), sde, (3,), 4, latent=z) for z in (latent, latent + sde.prior.std))
        assert torch.equal(latent, kept), "the latent was changed in place"
        assert not torch.allclose(first, second), "two latents give the same samples"


def counts_evaluations(candidate: Candidate) -> None:
    """The reported NFE is the number of evaluations of a sample, on average: none goes around the model's counter."""
    for sde in _served(candidate):
        model = Watched(Mixture(event=(3,)))
        found, expected = sample(model, sde, short(candidate), (3,), 4).nfe, model.evaluated / 4
        assert found == expected > 0, f"the NFE is {found}, but the model was run {expected:g} times on a sample"


def tells_of_its_steps(candidate: Candidate) -> None:
    """An observer hears of at least one step, and the count does not fall."""
    heard: list[int] = []
    sample(
        Watched(gaussian(event=(3,))), next(_served(candidate)), short(candidate), (3,), 4,
        observe=lambda done, total, x: heard.append(done),
    )  # fmt: skip
    assert heard, "observe was never called"
    assert heard == sorted(heard), f"observe heard of steps {heard}, expected numbers that do not fall"


class _Recorded(Noise):
    """Noise that keeps the keys of all draws."""

    keys: list[tuple[int | str, str, int]]

    def draw(self, step: int | str, purpose: str, draw: int = 0) -> Tensor:
        """The same draw."""
        self.keys.append((step, purpose, draw))
        return super().draw(step, purpose, draw)


def draws_no_number_twice(candidate: Candidate) -> None:
    """No key of the noise is drawn twice in a run, with a predictor and a corrector that both draw noise."""
    for sampler, sde, _ in _with_steps(candidate):
        noise = _Recorded(0, (3,), 4)
        noise.keys = []
        sampler.run(sde.prior.from_noise(torch.randn(4, 3)), Watched(gaussian(event=(3,))), sde, noise)
        again = [key for key, times in Counter(noise.keys).items() if times > 1]
        assert not again, f"the noise (step, purpose, draw) = {again[0]} is drawn more than once"


def steps_meet_the_state(candidate: Candidate) -> None:
    """Its predictor is led from t = 1 to 0 without a gap; its corrector acts at the level that the state has."""
    if "predictor" not in _places(candidate):
        raise Skip("it has no place for a predictor")
    for sampler, sde, heard in _with_steps(candidate):
        sample(Watched(gaussian(event=(3,))), sde, sampler, (3,), 4)
        level = 1.0
        for part, step in heard:
            now = step.now.t
            assert now == level, f"the {part} gets a step from t = {now:.4g}, but the state is at t = {level:.4g}"
            level = step.next.t if part == "predictor" else level
        assert level == 0, f"the last step of the predictor leads to t = {level:.4g}, expected 0"


def _places(candidate: Candidate) -> set[str]:
    """Those of predictor and corrector that it has a place for, and that were not asked for."""
    names = {p.name for p in parameters(candidate.cls)} - set(candidate.params)
    return names & {"predictor", "corrector"}


def _with_steps(candidate: Candidate) -> Iterator[tuple[Sampler, SDE, list[tuple[str, Step]]]]:
    """It, with the suite's own predictor and corrector where it has places for them, and what these hear.

    And its variants, which may lead them in other ways.
    """
    places = _places(candidate)
    for change in ({}, *(candidate.changes() if places else ())):
        heard: list[tuple[str, Step]] = []
        parts: dict[str, Any] = {"predictor": _Heard(heard), "corrector": _HeardCorrector(heard)}
        try:
            sampler = short(candidate, **{name: parts[name] for name in places}, **change)
        except UsageError:  # a value that the other parameters rule out
            continue
        sde = next(_served(candidate))
        candidate.trying = str(Spec(candidate.name, dict(change)))
        yield sampler, sde, heard
    candidate.trying = ""


@attrs.frozen(eq=False)
class _Heard(Predictor):
    """The suite's own predictor, keeping its steps."""

    heard: list[tuple[str, Step]]

    def step(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """The same step."""
        self.heard.append(("predictor", step))
        return PlainPredictor().step(x, step, model, noise)


@attrs.frozen(eq=False)
class _HeardCorrector(Corrector):
    """The suite's own corrector, keeping its steps."""

    heard: list[tuple[str, Step]]

    def correct(self, x: Tensor, step: Step, model: ScoreModel, noise: Draw) -> tuple[Tensor, Tensor]:
        """The same step."""
        self.heard.append(("corrector", step))
        return PlainCorrector().correct(x, step, model, noise)


def finds_the_moments(candidate: Candidate) -> None:
    """From the exact marginal at t = 1, samples of a Gaussian have its mean and variance, within 4 standard errors.

    The latents are evenly spread over the marginal: a sampler without noise may be off by 1 %, and by the noise that
    is left at t_min.
    """
    mean, std, n = 0.5, 0.5, 2000 if candidate.full else 500
    data = gaussian(mean, std, (2,))
    for sde in _served(candidate):
        takes_steps = "steps" in {p.name for p in parameters(candidate.cls)} - set(candidate.params)
        sampler: Sampler = candidate.build(**({"steps": MANY} if takes_steps else {}))
        latent = _spread(sde, data, n)
        x = sample(Watched(data), sde, sampler, (2,), n, seed=5, latent=latent).x.double()
        first, second = (_samples(short(candidate), sde, (2,), 4, seed=seed, latent=latent[:4]) for seed in (1, 2))
        noisy = not torch.equal(first, second)
        left = float(sde.sigma(torch.tensor(sde.t_min, dtype=torch.float64))) ** 2
        for name, found, expected, spread in (
            ("mean", x.mean(), mean, std),
            ("variance", (x - mean).square().mean(), std**2, std**2 * math.sqrt(2)),
        ):
            allowed = left + (4 * spread / math.sqrt(x.numel()) if noisy else BIAS * spread)
            off = abs(float(found) - expected)
            assert off <= allowed, (
                f"the {name} of samples is {float(found):.4f}, expected {expected:.4f} within {allowed:.4f}"
            )


def _spread(sde: SDE, data: Mixture, n: int) -> Tensor:
    """(n, 2) latents: a rank-one lattice of quantiles of the exact marginal at t = 1."""
    level = sde.level(torch.ones((), dtype=torch.float64))
    mean, variance = data.coordinate(Level(1.0, float(level.alpha), float(level.sigma)))
    k = torch.arange(n, dtype=torch.float64)
    u = torch.stack([(k + 0.5) / n, ((k * (math.sqrt(5) - 1) / 2) % 1 + 0.5 / n) % 1], 1)
    latents: Tensor = mean + math.sqrt(variance) * torch.special.ndtri(u)
    return latents


def _samples(sampler: Sampler, sde: SDE, shape: tuple[int, ...], n: int, **options: Any) -> Tensor:
    return sample(Watched(Mixture(event=shape)), sde, sampler, shape, n, **options).x


CHECKS = (
    is_split_invariant,
    follows_the_seed,
    keeps_shape_and_dtype,
    starts_from_the_latent,
    counts_evaluations,
    tells_of_its_steps,
    draws_no_number_twice,
    steps_meet_the_state,
    finds_the_moments,
)
