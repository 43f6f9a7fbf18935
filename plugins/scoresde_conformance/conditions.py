"""Conditions: the known part is exact, the rest of the events is not used, and every step can be combined."""

from typing import Any

import torch
from torch import Tensor
from scoresde_core import DATA, SDE, ExactScore, Level, Noise, Sampler, Target, sample
from scoresde_run import Condition, ConditionedSampler
from . import exact
from .candidate import Candidate, Skip, first_accepted
from .expect import agree, is_zero, refusal
from .targets import LEVELS, SAMPLES

SHAPES = ((2,), (1, 8, 8), (3, 8, 8))
FEW, STEPS = 6, 4


def _shape(candidate: Candidate) -> tuple[int, ...]:
    return first_accepted(SHAPES, candidate.component.skip)


def _events(shape: tuple[int, ...], purpose: str = "events") -> Tensor:
    return Noise(3, shape, FEW).draw("conformance", purpose)


def _draw(sampler: Sampler, sde: SDE, shape: tuple[int, ...], batch_size: int | None = None) -> Tensor:
    return sample(exact.Watched(exact.gaussian(event=shape), sde), sampler, FEW, seed=5, batch_size=batch_size).x


def imposing_twice_changes_nothing(candidate: Candidate) -> None:
    """The known part of clean data is set to a fixed value, and the rest is kept."""
    shape = _shape(candidate)
    observed = candidate.component.observe(_events(shape))
    x = _events(shape, "state")
    once = observed.impose(x, DATA)
    if not observed.acts_on_state:
        told = "it declares acts_on_state = False, so samplers may omit impose, but impose changes states"
        assert torch.equal(once, x), told
        raise Skip("it acts on the score only")
    again = observed.impose(once, DATA)
    agree(again, once, 1e-5, "imposing the known part of clean data a second time changes it by")
    assert not torch.allclose(once, x), "impose changes nothing: nothing is known"
    assert not torch.allclose(once, _events(shape)), "impose gives the observed events back: everything is known"
    kept = observed.impose(_events(shape), DATA)
    agree(kept, _events(shape), 1e-5, "imposing its own known part on clean data changes it by")


def imposes_the_law_of_the_level(candidate: Candidate) -> None:
    """At (alpha, sigma) the mean of its own events is alpha times the known part, and noise is added only there."""
    shape = _shape(candidate)
    observed = candidate.component.observe(_events(shape))
    if not observed.acts_on_state:
        raise Skip("it acts on the score only")
    level, noise = Level(0.5, 0.6, 0.8), _events(shape, "noise")
    # On an ideal state alpha x + sigma z, imposing alpha c + sigma z with the same z does not change the mean.
    ideal = 0.6 * _events(shape)
    agree(observed.impose(ideal, level), ideal, 1e-5, "at alpha = 0.6 the mean of the known part is off by")
    zero = torch.zeros_like(noise)
    quiet = observed.impose(zero, level)
    added, unit = (observed.impose(zero, at, lambda: noise) - quiet for at in (level, Level(0.5, 0.6, 1.0)))
    agree(added, 0.8 * unit, 1e-5, "noise of scale 0.8 is not 0.8 times the noise of scale 1: off by")


def works_with_every_step(candidate: Candidate) -> None:
    """With every predictor and corrector, samples are finite and have exactly the known part."""
    shape, sde = _shape(candidate), exact.ConstantRateSDE()
    observed = candidate.component.observe(_events(shape))
    own: dict[str, Any] = {"predictor": exact.PlainPredictor(), "corrector": exact.PlainCorrector()}
    parts = [(place, f"the suite's own {place}", part) for place, part in own.items()]
    for place in own:
        parts += [(place, f"{place} {n}", part) for n, part in candidate.partners(f"{place}s", shipped=candidate.full)]
    for place, label, part in parts:
        candidate.trying = f"{candidate.name} with {label}"
        sampler = ConditionedSampler(exact.PlainSampler(steps=STEPS, **{place: part}), observed)
        if sampler.skip(sde) is None:
            x = _draw(sampler, sde, shape)
            assert bool(x.isfinite().all()), "samples are not finite"
            agree(observed.impose(x, DATA), x, 1e-5, "the known part of samples is off by")


def does_not_depend_on_the_batch(candidate: Candidate) -> None:
    """Samples drawn in batches of 4 equal those drawn at once."""
    shape, sde = _shape(candidate), exact.ConstantRateSDE()
    conditioned = ConditionedSampler(exact.PlainSampler(steps=STEPS), candidate.component.observe(_events(shape)))
    whole, parts = _draw(conditioned, sde, shape), _draw(conditioned, sde, shape, batch_size=4)
    agree(parts, whole, 1e-5, "samples drawn in batches of 4 differ from those drawn at once by")


def guides_by_bayes_rule(candidate: Candidate) -> None:
    """For a condition by a target's components, the guided score is that of the events with the same labels.

    For x = alpha x_0 + sigma eps and the labels y of ``observe``, score(x | y) + eps / sigma is uncorrelated with every
    function of x and y. Where all events share y, x_0 is weighted by the responsibility of component y.
    """
    observed = candidate.component.observe(_events(_shape(candidate)))
    target, labels = getattr(candidate.component, "target", None), getattr(observed, "labels", None)
    if observed.acts_on_state or not isinstance(target, Target) or labels is None:
        raise Skip("it does not guide by the components of a target")
    precise = target.to("cpu", torch.float64)
    clean = precise.sample(SAMPLES, seed=3).double()
    given = candidate.component.observe(clean)
    weights = precise.responsibilities(clean).gather(1, given.labels.unsqueeze(1)).squeeze(1)
    directions = exact.directions_of(precise).T
    for level in LEVELS:
        eps = torch.randn(SAMPLES, *precise.shape, dtype=torch.float64)
        x = level.alpha * clean + level.sigma * eps
        score = given.guide(ExactScore(precise, exact.ConstantRateSDE())).score(x, level).flatten(1)
        rest = (score + eps.flatten(1) / level.sigma) * weights.unsqueeze(1)
        told = f"score of guide at sigma = {level.sigma}"
        is_zero((rest * score).sum(1), f"the {told} + eps / sigma is correlated with the score: their product")
        is_zero(rest @ directions, f"the mean {told}, along direction {{}},")


def refuses_or_serves(candidate: Candidate) -> None:
    """``skip`` gives in advance the reason of the ValueError that ``observe`` raises."""
    condition: Condition = candidate.component
    for shape in ((1,), (2,), (7,), (1, 7, 7), (3, 6, 6)):
        reason, said = condition.skip(shape), refusal(condition.observe, torch.zeros(2, *shape))
        assert said == reason, f"of events of shape {shape} skip says {reason!r}, but observe raises {said!r}"
