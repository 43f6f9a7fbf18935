"""Evaluators: exact samples score at the floor, worse samples score worse, and the errors are those of the values.

A standard error is the scatter of the value between sets of samples, so it is compared with the scatter over a number
of sets. With K of them the standard deviation found has a relative error of 1 / sqrt(2 (K - 1)).
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, pairwise
from math import prod
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import Estimate, Evaluator, Metric, ScoreModel, Target
from scoresde_run import Evidence, Features
from scoresde_run.results.certainty import difference, quantile
from .candidate import Candidate, Skip, first_accepted, kept
from .exact import FlowSampler, Mixture, Scaled, Watched, gaussian
from .expect import near, some

SIZE, FEW = 512, 128
"""Samples of small events, and of events of more than 16 dimensions."""
SHIFTS = (0.5, 1.0, 4.0)
FACTORS = (1.25, 1.5, 2.0)
SETS = 16  # sets of samples for the scatter of a value
CHANCE = 6.3e-5  # the probability of a normal value beyond 4 standard deviations
TOO_LARGE = 2.0
"""Errors may be too large by this factor: many are by the square root of 2 for exact samples, and some by more."""
TOO_SMALL = 1.2
SCALED = 3.0
ByName = dict[str, list[Metric]]


@kept
def _target(candidate: Candidate) -> Target:
    """Return the first target that the evaluator accepts: the suite's own two, then its counterparts by dimension."""

    def refusal(case: tuple[str, Target]) -> str | None:
        candidate.trying = f"{candidate.name} on {case[0]}"
        evaluator: Evaluator = candidate.component
        return evaluator.skip(_evidence(case[1], _draws(case[1])))

    tried: list[tuple[str, Target]] = [("the suite's own gaussian", gaussian(event=(2,)))]
    tried.append(("the suite's own mixture", Mixture()))
    partners = sorted(candidate.partners("targets"), key=lambda partner: prod(partner[1].shape))
    tried += [(f"target {name}", target) for name, target in partners]
    return first_accepted(tried, refusal, "target")[1]


def _evidence(target: Target, samples: Tensor, seed: int = 0, model: ScoreModel | None = None) -> Evidence:
    return Evidence(samples, seed, target=target, model=model or Watched(target), sampler=FlowSampler())


def _metrics(candidate: Candidate, target: Target, samples: Tensor, **how: Any) -> list[Metric]:
    kept = samples.clone()
    metrics: list[Metric] = candidate.component.evaluate(_evidence(target, samples, **how))
    assert torch.equal(samples.nan_to_num(), kept.nan_to_num()), "evaluate changed the samples in place"
    assert metrics, "evaluate returned no metric"
    return metrics


def _draws(target: Target, n: int | None = None) -> Tensor:
    """Return exact samples, with a seed that no reference uses."""
    return target.sample(n or (SIZE if prod(target.shape) <= 16 else FEW), seed=987_654)


def _spread(target: Target) -> float:
    """Return the root mean square over the coordinates of their standard deviations."""
    return math.sqrt(float(target.moments()[1].diagonal().mean()))


def _by_name(metrics: Iterable[Metric]) -> ByName:
    found: ByName = {}
    for metric in metrics:
        found.setdefault(metric.name, []).append(metric)
    return found


@kept
def _at_exact(candidate: Candidate) -> list[Metric]:
    target = _target(candidate)
    return _metrics(candidate, target, _draws(target))


@kept
def _series(candidate: Candidate) -> ByName:
    """Return metrics by name: of exact evidence, then of increasingly worse evidence."""
    target = _target(candidate)
    samples, spread = _draws(target), _spread(target)
    if candidate.component.judges == "samples":
        worse = [_metrics(candidate, target, samples + shift * spread) for shift in SHIFTS]
    else:
        worse = [_metrics(candidate, target, samples, model=Scaled(target, factor)) for factor in FACTORS]
    return _by_name(chain(_at_exact(candidate), *worse))


@kept
def _repeats(candidate: Candidate) -> ByName:
    """Return metrics by name, of independent sets of samples shifted by half a standard deviation, with other seeds."""
    target = _target(candidate)
    sets = [target.sample(FEW, seed=7_000 + k) + 0.5 * _spread(target) for k in range(SETS)]
    return _by_name(chain(*(_metrics(candidate, target, samples, seed=seed) for seed, samples in enumerate(sets))))


def _estimate(metric: Metric) -> Estimate:
    return Estimate(metric.value, metric.stderr, metric.df)


def _allowed(one: Estimate, other: Estimate) -> float:
    """Return the allowed difference of two estimates: 4 standard errors, more if these are uncertain."""
    gap = difference(one, other)
    return quantile(CHANCE, gap.df) * gap.stderr if gap.stderr else 0.0


def _badness(metric: Metric) -> float:
    return {"lower": metric.value, "higher": -metric.value, "zero": abs(metric.value)}[metric.better]


def describes_its_metrics(candidate: Candidate) -> None:
    """Every metric has a unique name, a finite value, a standard error and a direction."""
    metrics = _at_exact(candidate)
    names = [metric.name for metric in metrics]
    assert all(names), f"a metric has no name among {names}"
    assert len(set(names)) == len(names), f"metrics share names: {names}"
    for metric in metrics:
        assert math.isfinite(metric.value), f"{metric.name} of exact samples is {metric.value}"
        assert metric.stderr >= 0, f"the stderr of {metric.name} is {metric.stderr}"
        assert metric.better in ("lower", "higher", "zero"), f"{metric.name} is better where it is {metric.better!r}"
        both = (metric.floor is None) == (metric.floor_stderr is None)
        assert both, f"{metric.name} has a floor without floor_stderr"


def exact_samples_score_the_floor(candidate: Candidate) -> None:
    """Exact samples are within 4 standard errors of the floor."""
    floored = (metric for metric in _at_exact(candidate) if metric.floor is not None)
    for metric in some(floored, "none of its metrics has a floor"):
        floor = Estimate(metric.floor or 0.0, metric.floor_stderr or 0.0, metric.floor_df)
        allowed = _allowed(_estimate(metric), floor) + 1e-12
        near(f"compared with its floor, {metric.name} of exact samples", metric.value, floor.value, allowed)


def worse_evidence_scores_worse(candidate: Candidate) -> None:
    """Samples moved by 1/2, 1 and 4 standard deviations, or scores times 1.25, 1.5 and 2, score increasingly worse.

    Within 4 standard errors; in at least one metric the worst is worse than the truth by more.
    """
    told_apart, all_told = False, []
    moved = candidate.component.judges == "samples"
    how = "samples moved by 0, 1/2, 1 and 4 standard deviations" if moved else "scores times 1, 1.25, 1.5 and 2"
    for name, metrics in _series(candidate).items():
        told = f"{name} of {how} is {', '.join(f'{m.value:.3g} +- {m.stderr:.1g}' for m in metrics)}"
        for one, other in pairwise(metrics):
            chance = _allowed(_estimate(one), _estimate(other))
            assert _badness(other) >= _badness(one) - chance, f"{told}, expected worse and worse values"
        chance = _allowed(_estimate(metrics[0]), _estimate(metrics[-1]))
        told_apart |= _badness(metrics[-1]) > _badness(metrics[0]) + chance
        all_told.append(f"{told}: better is {metrics[0].better!r}")
    assert told_apart, "; ".join(all_told)


def errors_are_the_scatter(candidate: Candidate) -> None:
    """Over independent sets of samples and seeds, values and floors scatter by their standard errors."""
    if candidate.component.judges == "model" and not candidate.full:
        raise Skip("only the full level repeats the judgement of a model")
    for name, metrics in _repeats(candidate).items():
        pairs = {"": [(metric.value, metric.stderr) for metric in metrics]}
        if metrics[0].floor is not None:
            pairs["the floor of "] = [(metric.floor or 0.0, metric.floor_stderr or 0.0) for metric in metrics]
        for what, found in pairs.items():
            values, errors = torch.tensor(found, dtype=torch.float64).T
            scatter, error = float(values.std()), float(errors.square().mean().sqrt())
            chance = math.exp(4 / math.sqrt(2 * (len(found) - 1)))
            rounding = 1e-6 * float(values.abs().max())
            told = f"{len(found)} values of {what}{name} scatter by {scatter:.3g}, but their stderr is {error:.3g}"
            assert scatter <= TOO_SMALL * chance * error + rounding, told
            assert error <= TOO_LARGE * chance * scatter + rounding, told


def zero_is_the_truth(candidate: Candidate) -> None:
    """A metric that is best at zero is zero for exact samples or the exact model, within its errors."""
    best = ((name, metrics) for name, metrics in _series(candidate).items() if metrics[0].better == "zero")
    for name, (exact, worse, *_) in some(best, "none of its metrics is best at zero"):
        found, error = exact.value, exact.stderr
        if exact.floor is not None:
            floors = torch.tensor([metric.floor or 0.0 for metric in _repeats(candidate)[name]], dtype=torch.float64)
            found, error = float(floors.mean()), float(floors.std()) / math.sqrt(len(floors))
        near(f"better is 'zero', but {name} of the truth", found, 0, 5 * error + 1e-3 * abs(worse.value))


def values_have_their_unit(candidate: Candidate) -> None:
    """With target and samples scaled by three, values in data units triple, and values in nats stay."""
    target = _target(candidate)
    if candidate.component.judges != "samples" or not isinstance(target, Mixture):
        raise Skip("it judges the model, or refuses the targets that the suite can scale")
    larger = attrs.evolve(target, means=tuple(SCALED * mean for mean in target.means), std=SCALED * target.std)
    samples = _draws(target) + 0.5 * target.std
    before, after = _metrics(candidate, target, samples), _metrics(candidate, larger, SCALED * samples)
    factors = {"data units": SCALED, "nats": 1.0, "bits/dim": 1.0}
    known = (pair for pair in zip(before, after, strict=True) if pair[0].unit in factors)
    for one, other in some(known, "its unit is neither data units nor nats nor bits/dim"):
        expected = factors[one.unit] * one.value
        told = f"{one.name} is {one.value:.5g} {one.unit}, and {other.value:.5g} with target and samples scaled by"
        assert math.isclose(other.value, expected, rel_tol=1e-3), f"{told} {SCALED:g}, expected {expected:.5g}"


def repeats_with_the_seed(candidate: Candidate) -> None:
    """The same samples and seed give the same value; the samples are not modified."""
    target = _target(candidate)
    first, again = ([m.value for m in _metrics(candidate, target, _draws(target, FEW), seed=4)] for _ in range(2))
    assert first == again, f"evaluate gives {first} and then {again} for the same samples and seed"


class _Read:
    def __init__(self, batches: list[Features]) -> None:
        self.batches, self.read = batches, False

    def __iter__(self) -> Iterator[Features]:
        self.read = True
        return iter(self.batches)


def tells_what_it_reads(candidate: Candidate) -> None:
    """``reads`` and ``depends_on`` do not use the samples; other batches of features give the same value."""
    evaluator, target = candidate.component, _target(candidate)
    samples = _draws(target, FEW)
    evidence, blank = _evidence(target, samples), _evidence(target, torch.zeros_like(samples))
    pairs = list(evaluator.reads(evidence))
    assert pairs == list(evaluator.reads(blank)), "reads depends on the samples, which are not drawn when it is asked"
    one, other = repr(evaluator.depends_on(evidence)), repr(evaluator.depends_on(blank))
    assert one == other, "depends_on depends on the samples, which are not drawn when it is asked"
    if not pairs:
        return
    given = {}
    for extraction, events in pairs:
        in_thirds = attrs.evolve(extraction, batch_size=-(-events.size // 3))
        batches = list(in_thirds(events.load(), samples.device))
        given[extraction, events] = evidence.once((extraction, events), partial(_Read, batches))
    found = evaluator.evaluate(evidence)
    unread = [events.label for (_, events), made in given.items() if not made.read]
    assert not unread, f"evaluate does not read the features of {unread[0]}, which reads names"
    for metric, expected in zip(found, _metrics(candidate, target, samples), strict=True):
        most = 1e-4 * abs(expected.value) + 1e-3 * (expected.stderr or 0.0)
        near(f"with its features in three batches {metric.name}", metric.value, expected.value, most)


def survives_nan(candidate: Candidate) -> None:
    """Samples of a diverged sampler give metrics without error, and their values are not finite."""
    target = _target(candidate)
    judged: list[tuple[str, float, ScoreModel | None]] = [(f"samples with {v}", v, None) for v in (math.nan, math.inf)]
    if candidate.component.judges == "model":
        judged = [("a score of NaN", 0.0, Scaled(target, math.nan))]
    for what, fill, model in judged:
        samples = _draws(target, FEW)
        samples[0] += fill
        for metric in _metrics(candidate, target, samples, model=model):
            assert not math.isfinite(metric.value), f"{metric.name} of {what} is {metric.value:.4g}"
