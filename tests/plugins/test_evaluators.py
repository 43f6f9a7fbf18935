"""Metrics on exact targets: closed forms, brute force, errors against the scatter of repeated draws, floors."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from scoresde_core.estimate import Estimate
from scoresde_core.evaluator import Metric
from scoresde_core.target import Target
from scoresde_plugins.evaluators import distances
from scoresde_plugins.evaluators.comparison import Comparison, ModeWeights, NLLGap
from scoresde_plugins.evaluators.distances import EnergyDistance, SlicedWasserstein
from scoresde_plugins.evaluators.moments import Moments, gaussian_w2
from scoresde_run.data.evidence import Evidence, Reference
from scoresde_run.results.rows import warnings_of

ALL = [NLLGap(), SlicedWasserstein(), ModeWeights(), Moments(), EnergyDistance()]
ON_GAUSSIAN = [metric for metric in ALL if metric.name != "mode_weights"]
name_of = {"ids": lambda metric: metric.name}


class Gaussian(Target):
    """N(mean, cov) with full covariance; ``drawn`` counts the calls of ``sample``."""

    def __init__(self, mean: Tensor, cov: Tensor, shape: tuple[int, ...] | None = None) -> None:
        self.law = MultivariateNormal(mean.double(), cov.double())
        self._shape, self.drawn = shape or (len(mean),), 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def sample(self, n: int, seed: int = 0) -> Tensor:
        self.drawn += 1
        z = torch.randn(n, len(self.law.mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (self.law.mean + z @ self.law.scale_tril.T).float().reshape(n, *self.shape)

    def log_prob(self, x: Tensor, level: object = None) -> Tensor:
        return self.law.log_prob(x.flatten(1).double())

    def score(self, x: Tensor, level: object = None) -> Tensor:
        raise NotImplementedError

    def entropy(self) -> Estimate:
        return Estimate(float(self.law.entropy()))

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.law.mean, self.law.covariance_matrix


class Mixture(Target):
    """Three round Gaussians of unequal weight in the plane, 8 and more standard deviations apart."""

    shape = (2,)
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 5.0]], dtype=torch.float64)

    def __init__(self, weights: tuple[float, ...] = (0.5, 0.3, 0.2)) -> None:
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.parts = MultivariateNormal(self.means, 0.25 * torch.eye(2, dtype=torch.float64))
        self.law = MixtureSameFamily(Categorical(self.weights), self.parts)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return (self.means[which] + 0.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)).float()

    def log_prob(self, x: Tensor, level: object = None) -> Tensor:
        return self.law.log_prob(x.double())

    def score(self, x: Tensor, level: object = None) -> Tensor:
        raise NotImplementedError

    def entropy(self) -> Estimate:
        x = self.sample(20_000, seed=99)
        surprise = -self.log_prob(x)
        return Estimate(float(surprise.mean()), float(surprise.std()) / math.sqrt(len(x)))

    def moments(self) -> tuple[Tensor, Tensor]:
        offsets = self.means - self.law.mean
        return self.law.mean, (offsets.T * self.weights) @ offsets + 0.25 * torch.eye(2, dtype=torch.float64)

    def modes(self) -> Tensor:
        return self.weights

    def responsibilities(self, x: Tensor) -> Tensor:
        return (self.parts.log_prob(x.double()[:, None]) + self.weights.log()).softmax(1)


def covariance(dim: int, seed: int = 0) -> Tensor:
    """A covariance with eigenvalues from 4 down to 0.04 in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    return (basis * torch.logspace(math.log10(4), math.log10(0.04), dim, dtype=torch.float64)) @ basis.T


def gaussian(dim: int = 6, shape: tuple[int, ...] | None = None) -> Gaussian:
    return Gaussian(torch.linspace(-1, 1, dim), covariance(dim), shape)


def judge(metric: Comparison, samples: Tensor, target: Target, seed: int = 0) -> Metric:
    (found,) = metric.evaluate(Evidence(samples, seed=seed, target=target))
    assert (found.name, found.unit, found.better) == (metric.name, metric.unit, metric.better)
    return found


# --- Gaussian W2 --------------------------------------------------------------------------------------------------


def test_gaussian_w2_of_commuting_covariances() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.25]), torch.tensor([1.0, 9.0, 0.0])
    basis = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    mean = torch.tensor([1.0, -2.0, 2.0])
    expected = math.sqrt(9 + (2 - 1) ** 2 + (1 - 3) ** 2 + 0.5**2)
    found = gaussian_w2(torch.zeros(3), (basis * a) @ basis.T, mean, (basis * b) @ basis.T)
    assert found == pytest.approx(expected, rel=1e-7)  # the root of an eigenvalue 0 has the root of 1e-16 as error


def test_gaussian_w2_is_the_cost_of_the_optimal_map() -> None:
    """Brenier: any positive T is the optimal map from N(0, S) to N(0, T S T), at the cost tr (T - 1) S (T - 1)."""
    cov, stretch = covariance(8, seed=1), covariance(8, seed=2) + 0.5 * torch.eye(8)
    moved, off = stretch @ cov @ stretch, stretch - torch.eye(8)
    expected = math.sqrt(torch.trace(off @ cov @ off))
    zero = torch.zeros(8)
    assert gaussian_w2(zero, cov, zero, moved) == pytest.approx(expected, rel=1e-11)
    assert gaussian_w2(zero, moved, zero, cov) == pytest.approx(expected, rel=1e-11)


def test_gaussian_w2_of_degenerate_covariances() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.5, -1.0, 3.0])
    expected = math.sqrt(a @ a + b @ b - 2 * abs(a @ b))  # two segments
    assert gaussian_w2(a, a.outer(a), a, b.outer(b)) == pytest.approx(expected, rel=1e-7)
    assert gaussian_w2(a, torch.zeros(3, 3), b, torch.zeros(3, 3)) == pytest.approx(float((a - b).norm()), rel=1e-6)


@pytest.mark.parametrize("excess", [1e-4, 1e-8, 1e-11])
def test_gaussian_w2_keeps_its_digits_for_close_covariances(excess: float) -> None:
    cov = covariance(20)
    found = gaussian_w2(torch.zeros(20), cov, torch.zeros(20), cov * (1 + excess) ** 2)
    assert found == pytest.approx(excess * math.sqrt(cov.trace()), rel=1e-3)


# --- Values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [400, 5], ids=["more_samples_than_dimensions", "fewer"])
def test_moments_is_w2_of_the_sample_moments(n: int) -> None:
    target = gaussian()
    x = 1.3 * target.sample(n, seed=3) + 0.2
    expected = gaussian_w2(x.double().mean(0), x.double().T.cov(), *target.moments())
    assert judge(Moments(), x, target).value == pytest.approx(expected, rel=1e-6)


def test_nll_gap_of_a_scaled_and_shifted_gaussian() -> None:
    """E_q[-log p] - H = D (c^2 - 1) / 2 + d' S^-1 d / 2 for q = N(mean + d, c^2 S)."""
    target, shift = gaussian(), torch.full((6,), 0.3)
    x = 1.2 * (target.sample(4000, seed=5) - target.law.mean.float()) + target.law.mean.float() + shift
    expected = 6 * (1.2**2 - 1) / 2 + float(shift.double() @ target.law.precision_matrix @ shift.double()) / 2
    found = judge(NLLGap(), x, target)
    assert abs(found.value - expected) < 4 * found.stderr
    assert found.stderr < 0.05 * expected


def test_nll_gap_is_negative_for_samples_that_are_too_typical() -> None:
    target = gaussian()
    found = judge(NLLGap(), target.law.mean.expand(20, 6).clone(), target)
    assert found.value == pytest.approx(-3.0, rel=1e-12)  # -D / 2 where every sample is the mode
    assert found.stderr == 0


def test_nll_gap_counts_the_error_of_the_entropy() -> None:
    target = Mixture()
    found = judge(NLLGap(), target.means[:1].expand(20, 2).clone(), target)
    assert found.stderr == pytest.approx(target.entropy().stderr, rel=1e-12)


def test_sliced_wasserstein_in_one_dimension_is_the_best_assignment() -> None:
    target = Gaussian(torch.zeros(1), torch.eye(1))
    x = 2 * target.sample(6, seed=1) + 1
    evidence = Evidence(x, target=target)
    y = evidence.exact(0)
    best = min(float((x - y[list(order)]).square().mean()) for order in itertools.permutations(range(6)))
    assert SlicedWasserstein().evaluate(evidence)[0].value == pytest.approx(math.sqrt(best), rel=1e-6)


@pytest.mark.parametrize("dim", [2, 12])
def test_sliced_wasserstein_of_a_shift(dim: int) -> None:
    """The same set shifted by d is |u.d| away along u, and |d|^2 / D on average over directions u."""
    target = gaussian(dim)
    reference = Reference(target, 32)
    shift = torch.linspace(0, 3, dim)
    (found,) = SlicedWasserstein(20_000).evaluate(Evidence(reference.exact(0) + shift, reference=reference))
    # (u.d)^2 has the relative variance 2 (D - 1) / (D + 2) below 2: 4 standard errors of a mean over 20,000, halved.
    assert found.value == pytest.approx(float(shift.norm()) / math.sqrt(dim), rel=4 * math.sqrt(2 / 20_000) / 2)


def test_energy_distance_of_shifted_normals() -> None:
    """X - Y ~ N(m, 1 + s^2), and E|N(m, v)| = sqrt(2 v / pi) exp(-m^2 / 2v) + m erf(m / sqrt(2 v))."""

    def mean_distance(m: float, v: float) -> float:
        return math.sqrt(2 * v / math.pi) * math.exp(-m * m / (2 * v)) + m * math.erf(m / math.sqrt(2 * v))

    m, s = 0.7, 1.5
    target = Gaussian(torch.zeros(1), torch.eye(1))
    expected = 2 * mean_distance(m, 1 + s * s) - mean_distance(0, 2) - mean_distance(0, 2 * s * s)
    found = judge(EnergyDistance(), s * target.sample(3000, seed=8) + m, target)
    assert abs(found.value - expected) < 4 * found.stderr
    assert found.stderr < 0.1 * expected


def test_energy_distance_of_stray_samples() -> None:
    """k of n samples at a distance R add 2 R k (k - 1) / (n (n - 1)), once R is large."""
    target, n, far = Gaussian(torch.zeros(1), torch.eye(1)), 20, 1e6
    for k in (1, 2, 3):
        x = target.sample(n, seed=1)
        x[:k] = far
        expected = 2 * far * k * (k - 1) / (n * (n - 1))
        assert judge(EnergyDistance(), x, target).value == pytest.approx(expected, abs=5)


def test_energy_distance_is_unbiased() -> None:
    target = gaussian()
    values = torch.tensor([judge(EnergyDistance(), target.sample(16, 1000 + r), target, r).value for r in range(200)])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)


def test_energy_distance_and_its_jackknife_against_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_ROWS", 5)  # blocks that do not divide the set
    target, n = gaussian(shape=(2, 3)), 16
    evidence = Evidence(1.5 * target.sample(n, seed=4), target=target)
    found = EnergyDistance().evaluate(evidence)[0]
    x, y = evidence.samples.double().flatten(1), evidence.exact(0).double().flatten(1)

    def statistic(xs: Tensor, ys: Tensor) -> float:
        def mean(a: Tensor, b: Tensor, *, within: bool) -> float:
            pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (within and i == j)]
            return sum(float((a[i] - b[j]).norm()) for i, j in pairs) / len(pairs)

        return 2 * mean(xs, ys, within=False) - mean(xs, xs, within=True) - mean(ys, ys, within=True)

    without = [torch.arange(n) != i for i in range(n)]
    deleted = [torch.tensor([statistic(x[w], y) for w in without]), torch.tensor([statistic(x, y[w]) for w in without])]
    variance = sum(float((d.double() - d.double().mean()).square().sum()) * (n - 1) / n for d in deleted)
    assert found.value == pytest.approx(statistic(x, y), rel=1e-10)
    # The part that the jackknife counts twice, from centred distances of every pair.
    across = torch.cdist(x, y)
    across = across - across.mean(1, keepdim=True) - across.mean(0) + across.mean()
    quadratic = 4 * across.square().sum() / (n - 1) ** 2 / n**2
    for points in (x, y):
        within = torch.cdist(points, points)
        rows, total = within.sum(1), within.sum()
        within = within - rows[:, None] / (n - 2) - rows / (n - 2) + total / ((n - 1) * (n - 2))
        quadratic += 2 * within.fill_diagonal_(0).square().sum() / (n * (n - 3)) / (n * (n - 1))
    assert found.stderr == pytest.approx(math.sqrt(variance - float(quadratic)), rel=1e-4)


def test_mode_weights_of_other_weights() -> None:
    found = judge(ModeWeights(), Mixture((0.2, 0.3, 0.5)).sample(3000, seed=1), Mixture())
    assert abs(found.value - 0.3) < 4 * found.stderr
    assert found.stderr < 0.03


def test_mode_weights_of_a_collapsed_sampler() -> None:
    found = judge(ModeWeights(), Mixture.means[:1].expand(20, 2).clone(), Mixture())
    assert found.value == pytest.approx(0.5, abs=1e-12)
    assert found.stderr == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", ALL, **name_of)
def test_grows_with_a_shift(metric: Comparison) -> None:
    reference = Reference(Mixture(), 300)
    x = Mixture().sample(300, seed=77)
    values = [metric.evaluate(Evidence(x + torch.tensor([s, 0.0]), reference=reference))[0].value for s in (0, 1, 3)]
    assert values[0] < values[1] < values[2]


# --- Standard errors ----------------------------------------------------------------------------------------------

REPEATS = 80
"""The standard deviation of 80 values is known to 1 / sqrt(2 * 79) = 8 %; the bands below leave three times that."""
NOISE = 1.25


def scatter(metric: Comparison, target: Target, other: Target, n: int) -> float:
    """The mean standard error over the standard deviation of the value, over seeds."""
    found = [
        metric.measure(other.sample(n, seed=1000 + r).double(), Reference(target, n, seed=r)) for r in range(REPEATS)
    ]
    values, errors = torch.tensor([[f.value, f.stderr] for f in found], dtype=torch.float64).T
    return float(errors.mean() / values.std())


@pytest.mark.parametrize("metric", ON_GAUSSIAN, **name_of)
def test_standard_error_is_the_scatter_where_distributions_differ(metric: Comparison) -> None:
    target = gaussian()
    other = Gaussian(target.law.mean + 0.6, 1.5 * target.law.covariance_matrix)
    assert 1 / NOISE < scatter(metric, target, other, 200) < NOISE


def test_standard_error_of_sliced_wasserstein_covers_the_directions() -> None:
    """With few directions and a large shift, which directions were drawn is most of the scatter."""
    target = gaussian(12)
    other = Gaussian(target.law.mean + 3, target.law.covariance_matrix)
    assert 1 / NOISE < scatter(SlicedWasserstein(16), target, other, 100) < NOISE


def test_standard_error_of_mode_weights_is_the_scatter() -> None:
    assert 1 / NOISE < scatter(ModeWeights(), Mixture(), Mixture((0.3, 0.5, 0.2)), 200) < NOISE


@pytest.mark.parametrize(
    "metric", [NLLGap(), SlicedWasserstein(), Moments(), EnergyDistance(), ModeWeights()], **name_of
)
def test_standard_error_is_the_scatter_for_exact_samples(metric: Comparison) -> None:
    target = Mixture() if metric.name == "mode_weights" else gaussian(12)
    assert 1 / NOISE < scatter(metric, target, target, 200) < NOISE


def test_standard_error_of_moments_with_fewer_samples_than_dimensions() -> None:
    target = gaussian(60)
    other = Gaussian(target.law.mean + 0.3, 1.5 * target.law.covariance_matrix)
    assert 1 / NOISE < scatter(Moments(), target, other, 40) < NOISE


# --- Floors, seeds and sharing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ALL, **name_of)
def test_exact_samples_score_the_floor(metric: Comparison) -> None:
    found = judge(metric, Mixture().sample(400, seed=7), Mixture())
    assert found.floor is not None
    assert found.floor_stderr is not None
    assert found.floor_stderr > 0
    assert abs(found.value - found.floor) < 4 * math.hypot(found.stderr, found.floor_stderr)


@pytest.mark.parametrize("metric", ALL, **name_of)
def test_the_floor_is_the_metric_of_the_second_exact_set(metric: Comparison) -> None:
    reference = Reference(Mixture(), 100, seed=3)
    (found,) = metric.evaluate(Evidence(reference.exact(1), reference=reference))
    assert (found.floor, found.floor_stderr) == (found.value, found.stderr)
    assert not torch.equal(reference.exact(0), reference.exact(1))


@pytest.mark.parametrize("metric", ALL, **name_of)
def test_the_seed_decides(metric: Comparison) -> None:
    x = Mixture().sample(100, seed=1)
    first, again, other = (judge(metric, x, Mixture(), seed) for seed in (5, 5, 6))
    assert first == again
    assert first.floor != other.floor


def test_cells_share_a_reference() -> None:
    target = gaussian()
    reference = Reference(target, 64, seed=2)
    cells = [[judged for metric in ON_GAUSSIAN for judged in metric.evaluate(Evidence(x, reference=reference))]
             for x in (target.sample(64, 10), 2 * target.sample(64, 11))]  # fmt: skip
    assert target.drawn == 2 + 2  # the test's own, and the two exact sets
    assert [m.floor for m in cells[0]] == [m.floor for m in cells[1]]
    alone = Evidence(target.sample(64, 10), seed=2, target=target)
    assert cells[0] == [judged for metric in ON_GAUSSIAN for judged in metric.evaluate(alone)]


def test_parameters_do_not_share_a_floor() -> None:
    reference = Reference(gaussian(), 32)
    evidence = Evidence(gaussian().sample(32, 1), reference=reference)
    floors = {SlicedWasserstein(projections).evaluate(evidence)[0].floor for projections in (2, 3, 100)}
    assert len(floors) == 3


@pytest.mark.parametrize("metric", ON_GAUSSIAN, **name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_event_shape_and_dtype(metric: Comparison, dtype: torch.dtype) -> None:
    flat, image = gaussian(6), gaussian(6, (1, 2, 3))
    x = image.sample(16, seed=1).to(dtype)
    assert judge(metric, x, image) == judge(metric, x.flatten(1), flat)


@pytest.mark.parametrize("metric", ON_GAUSSIAN, **name_of)
def test_fewer_samples_than_dimensions(metric: Comparison) -> None:
    target = gaussian(30)
    found = judge(metric, target.sample(16, seed=1), target)
    assert all(math.isfinite(v) for v in (found.value, found.stderr, found.floor, found.floor_stderr))  # type: ignore[arg-type]
    assert found.stderr > 0


# --- What cannot be judged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ALL, **name_of)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_diverged_sample_makes_the_value_nan(metric: Comparison, bad: float) -> None:
    x = Mixture().sample(50, seed=1)
    x[13, 1] = bad
    found = judge(metric, x, Mixture())
    assert math.isnan(found.value)
    assert math.isnan(found.stderr)
    assert math.isfinite(found.floor)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ON_GAUSSIAN, **name_of)
def test_samples_far_out_are_measured(metric: Comparison) -> None:
    x = gaussian().sample(50, seed=1)
    x[13:15] = 1e30  # two: energy_distance is blind to a single one
    found = judge(metric, x, gaussian())
    assert found.value > 1e20
    assert found.stderr > 0
    overflow = judge(metric, x.double() * 1e200, gaussian())
    assert not math.isfinite(overflow.value)


def test_mode_weights_of_samples_without_a_mode_are_not_numbers() -> None:
    found = judge(ModeWeights(), torch.full((20, 2), 1e200, dtype=torch.float64), Mixture())
    assert math.isnan(found.value)
    assert math.isnan(found.stderr)


def test_samples_equal_to_the_reference_are_at_no_distance() -> None:
    reference = Reference(gaussian(), 20)
    (found,) = SlicedWasserstein().evaluate(Evidence(reference.exact(0), reference=reference))
    assert (found.value, found.stderr) == (0, 0)


@pytest.mark.parametrize("metric", ALL, **name_of)
def test_reasons(metric: Comparison) -> None:
    nothing = metric.skip(Evidence(torch.zeros(20, 2)))
    assert nothing is not None
    assert nothing.startswith(f"{type(metric).__name__} needs target")
    few = Evidence(torch.zeros(2, 2), target=Mixture())
    assert metric.skip(few) == f"{type(metric).__name__} needs {metric.smallest} samples or more, got 2"
    with pytest.raises(ValueError, match=f"{metric.smallest} samples or more, got 2"):
        metric.evaluate(few)
    assert metric.skip(Evidence(torch.zeros(metric.smallest, 2), target=Mixture())) is None


def test_mode_weights_needs_components() -> None:
    reason = ModeWeights().skip(Evidence(gaussian().sample(20), target=gaussian()))
    assert reason == "Gaussian has no components"


def test_evidence_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"samples have shape \(20, 3\), the reference has \(20, 2\)"):
        Evidence(torch.zeros(20, 3), target=Mixture())
    with pytest.raises(ValueError, match=r"samples have shape \(20, 2\), the reference has \(30, 2\)"):
        Evidence(torch.zeros(20, 2), reference=Reference(Mixture(), 30))
    with pytest.raises(ValueError, match="another target"):
        Evidence(torch.zeros(20, 2), target=Mixture(), reference=Reference(Mixture(), 20))
    with pytest.raises(ValueError, match="no exact target"):
        Evidence(torch.zeros(20, 2)).exact()


def test_one_direction_has_no_error() -> None:
    with pytest.raises(ValueError, match="projections"):
        SlicedWasserstein(1)


def test_a_row_holds_the_details_of_a_metric_where_there_are_any():
    bare, warned = Metric("a", 1.0, 0.5), Metric("b", 2.0, 0.5, details={"warning": "few samples"})
    assert not {"details", "name"} & set(bare.plain())
    rows = [{"metrics": {metric.name: metric.plain() for metric in (bare, warned)}}, {"status": "failed"}]
    assert warnings_of([*rows, *rows]) == ["few samples"]
    other = {"metrics": {"b": attrs.evolve(warned, details={"warning": "fewer samples"}).plain()}}
    assert warnings_of([*rows, other]) == ["few samples (and 1 more like it)"]
