"""Evaluators: exact samples score as the floor says, worse samples score worse, and numbers can be repeated."""

from __future__ import annotations

import math
from math import prod

import torch
from torch import Tensor

from ..evaluator import Evaluator, Evidence, Metric
from ..score import ScoreModel
from ..sde import Level
from ..target import Target
from .exact import ConstantRateSDE, FlowSampler, Mixture, Watched
from .suite import Skip, Subject

SIZE = 512
SHIFTS = (0.5, 1.0, 2.0)


def _target(subject: Subject) -> Target:
    """The cheapest target, by dimension, that the evaluator can use: the registry's, and the kit's own."""
    candidates: list[Target] = [target for _, target in subject.partners("targets")]
    candidates = sorted([*candidates, Mixture()], key=lambda target: prod(target.shape))
    reasons = []
    for target in candidates:
        reason = subject.component.skip(_evidence(target, target.sample(SIZE)))
        if reason is None:
            return target
        reasons.append(reason)
    raise Skip(f"it refuses every target: {reasons[0]}")


def _evidence(target: Target, samples: Tensor, seed: int = 0, model: ScoreModel | None = None) -> Evidence:
    """Samples with all that an evaluator may ask for."""
    model = model or Watched(target)
    return Evidence(samples, seed, target=target, sde=ConstantRateSDE(), model=model, sampler=FlowSampler())


class _Scaled(Watched):
    """A score that is too large by a factor."""

    def __init__(self, target: Target, factor: float) -> None:
        super().__init__(target)
        self.factor = factor

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        """The factor times the target's score."""
        return self.factor * super().evaluate(x, level)


def _judges_samples(subject: Subject) -> None:
    if subject.component.judges != "samples":
        raise Skip("it judges the model, whatever the samples")


def _metrics(subject: Subject, target: Target, samples: Tensor, seed: int = 0) -> list[Metric]:
    evaluator: Evaluator = subject.component
    metrics = evaluator.evaluate(_evidence(target, samples, seed))
    assert metrics, "evaluate gave no metric"
    return metrics


def _draws(target: Target) -> Tensor:
    """Exact samples, of a seed that no reference uses."""
    return target.sample(SIZE, seed=987_654)


def describes_its_metrics(subject: Subject) -> None:
    """Every metric has a name of its own, a finite value, a standard error and a direction."""
    target = _target(subject)
    metrics = _metrics(subject, target, _draws(target))
    names = [metric.name for metric in metrics]
    assert all(names), f"a metric has no name among {names}"
    assert len(set(names)) == len(names), f"metrics share names: {names}"
    for metric in metrics:
        assert math.isfinite(metric.value), f"{metric.name} of exact samples is {metric.value}"
        assert metric.stderr >= 0, f"the standard error of {metric.name} is {metric.stderr}"
        assert metric.better in ("lower", "higher", "zero"), f"{metric.name} is better where it is {metric.better!r}"
        assert (metric.floor is None) == (metric.floor_stderr is None), f"{metric.name}: a floor needs its error"


def exact_samples_score_the_floor(subject: Subject) -> None:
    """Exact samples are within 4 standard errors of the floor."""
    target = _target(subject)
    tried = False
    for metric in _metrics(subject, target, _draws(target)):
        if metric.floor is None or metric.floor_stderr is None:
            continue
        tried = True
        error = math.hypot(metric.stderr, metric.floor_stderr)
        off = (metric.value - metric.floor) / max(error, 1e-12)
        assert abs(off) <= 4, (
            f"exact samples have {metric.name} = {metric.value:.4g}, the floor is {metric.floor:.4g}: "
            f"{off:+.1f} standard errors away"
        )
    if not tried:
        raise Skip("none of its metrics has a floor")


def a_shift_makes_it_worse(subject: Subject) -> None:
    """Samples moved by 1/2, 1 and 2 standard deviations score worse and worse."""
    _judges_samples(subject)
    target = _target(subject)
    mean, covariance = target.moments()
    spread = float(covariance.trace() / len(mean)) ** 0.5
    # Away from every other component, so that the shift cannot move one of them onto another.
    series: dict[str, list[float]] = {}
    for shift in (0.0, *SHIFTS):
        for metric in _metrics(subject, target, _draws(target) + shift * spread):
            badness = {"lower": metric.value, "higher": -metric.value, "zero": abs(metric.value)}[metric.better]
            series.setdefault(metric.name, []).append(badness)
    for name, values in series.items():
        assert values == sorted(values) and values[-1] > values[0], (  # noqa: PT018
            f"{name} of samples moved by 0, 1/2, 1 and 2 standard deviations is {[f'{v:.3g}' for v in values]} "
            "(the larger the worse), expected a rise"
        )


def a_wrong_score_makes_it_worse(subject: Subject) -> None:
    """Scores too large by a factor of 1.25, 1.5 and 2 are worse and worse."""
    if subject.component.judges != "model":
        raise Skip("it judges samples, whatever the model")
    target = _target(subject)
    series: dict[str, list[float]] = {}
    for factor in (1.0, 1.25, 1.5, 2.0):
        for metric in subject.component.evaluate(_evidence(target, _draws(target), model=_Scaled(target, factor))):
            badness = {"lower": metric.value, "higher": -metric.value, "zero": abs(metric.value)}[metric.better]
            series.setdefault(metric.name, []).append(badness)
    for name, values in series.items():
        assert values == sorted(values) and values[-1] > values[0], (  # noqa: PT018
            f"{name} of scores times 1, 1.25, 1.5 and 2 is {[f'{v:.3g}' for v in values]} "
            "(the larger the worse), expected a rise"
        )


def repeats_with_the_seed(subject: Subject) -> None:
    """The same samples and seed give the same value."""
    target = _target(subject)
    first, again = ([m.value for m in _metrics(subject, target, _draws(target), seed=4)] for _ in range(2))
    assert first == again, f"the same samples and seed give {first} and then {again}"


def survives_nan(subject: Subject) -> None:
    """Samples of a sampler that diverged give metrics, of any value, and no error; they never score well."""
    target = _target(subject)
    if subject.component.judges == "model":
        for metric in subject.component.evaluate(_evidence(target, _draws(target), model=_Scaled(target, math.nan))):
            assert not math.isfinite(metric.value), f"{metric.name} of a score of NaN is {metric.value:.4g}"
        return
    for fill in (math.nan, math.inf):
        samples = _draws(target)
        samples[0] = fill
        for metric in _metrics(subject, target, samples):
            assert not math.isfinite(metric.value), f"{metric.name} of samples with {fill} is {metric.value:.4g}"


def leaves_samples_alone(subject: Subject) -> None:
    """The samples are not changed in place."""
    target = _target(subject)
    samples = _draws(target)
    kept = samples.clone()
    _metrics(subject, target, samples)
    assert torch.equal(samples, kept), "the samples were changed in place"


CHECKS = (
    describes_its_metrics,
    exact_samples_score_the_floor,
    a_shift_makes_it_worse,
    a_wrong_score_makes_it_worse,
    repeats_with_the_seed,
    survives_nan,
    leaves_samples_alone,
)
