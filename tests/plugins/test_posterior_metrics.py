"""Metrics of samples given y, against closed forms: of a Gaussian posterior moved or scaled, and of mixture weights."""

import math

import pytest
import torch
from exact_posterior import law_of
from scoresde import create
from scoresde_plugins.evaluators import restoration
from scoresde_plugins.evaluators.posterior import Given
from scoresde_run import Evidence, Observed

OBSERVED, EACH = 6, 400
GAUSSIAN = create("targets", "gaussian[shape=[1,4,4],decay=2,mean=0.5]")
NORMAL = torch.distributions.Normal(0.0, 1.0)


def given(target, condition="linear[operator=mask,noise=0.4]", each=EACH, seed=3):
    """Observations of events of ``target``, and their posteriors."""
    events = target.sample(OBSERVED, seed=seed)
    known = create("conditions", condition).observe(events.double())
    return Observed(events, known), [law_of(target.as_mixture(), known, k) for k in range(OBSERVED)]


def drawn(laws, each=EACH):
    return torch.stack([law.sample(each, seed=50 + k).double() for k, law in enumerate(laws)])


def judged(name, samples, target, observed, **more):
    """The metrics of samples (K, N, *shape), by name."""
    evidence = Evidence(samples.flatten(0, 1), 7, target=target, observed=observed, **more)
    return {metric.name: metric for metric in create("evaluators", name).evaluate(evidence)}


def scaled(samples, laws, factor):
    """Samples scaled about the exact mean of each posterior."""
    means = torch.stack([law.moments()[0] for law in laws]).view(len(laws), 1, *samples.shape[2:])
    return means + factor * (samples - means)


@pytest.fixture(scope="module")
def problem():
    observed, laws = given(GAUSSIAN)
    return observed, laws, drawn(laws)


@pytest.mark.parametrize("name", ["posterior_moments", "posterior_coverage", "posterior_distance", "residual"])
def test_exact_draws_are_at_the_floor(name, problem):
    observed, _, x = problem
    for metric in judged(name, x, GAUSSIAN, observed).values():
        assert abs(metric.value - metric.floor) < 4 * math.hypot(metric.stderr, metric.floor_stderr) + 1e-12
        assert metric.better == "lower" or abs(metric.value) < 4 * metric.stderr


def test_a_shift_is_the_gap_of_the_mean(problem):
    observed, laws, x = problem
    total = float(laws[0].moments()[1].trace())
    found = judged("posterior_moments", x + 0.3, GAUSSIAN, observed)
    assert found["mmse_gap"].value == pytest.approx(16 * 0.3**2 / total, rel=0.05)
    assert abs(found["excess_variance"].value) < 0.05


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_scale_is_the_excess_of_the_variance(factor, problem):
    observed, laws, x = problem
    found = judged("posterior_moments", scaled(x, laws, factor), GAUSSIAN, observed)
    assert found["excess_variance"].value == pytest.approx(factor**2 - 1, rel=0.05)
    assert found["covariance_error"].value == pytest.approx((factor**2 - 1) ** 2, rel=0.15)
    assert abs(found["mmse_gap"].value) < 4 * found["mmse_gap"].stderr


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_coverage_of_scaled_samples(factor, problem):
    observed, laws, x = problem
    found = judged("posterior_coverage", scaled(x, laws, factor), GAUSSIAN, observed)
    for share, z in ((50, 0.67449), (90, 1.64485)):
        expected = 2 * float(NORMAL.cdf(torch.tensor(factor * z))) - 1 - share / 100
        assert found[f"coverage_{share}"].value == pytest.approx(expected, abs=0.01)
    z = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    square = (12 * (NORMAL.cdf(z / factor) - 0.5) ** 2 * NORMAL.log_prob(z).exp()).sum() * (z[1] - z[0])
    assert found["rank_variance"].value == pytest.approx(float(square) - 1, abs=0.03)


def test_few_samples_cover_without_bias():
    observed, laws = given(GAUSSIAN, each=20)
    x = torch.stack([torch.stack([law.sample(20, seed=k) for law in laws]).double() for k in range(60)])
    found = [judged("posterior_coverage", each, GAUSSIAN, observed) for each in x]
    for name in ("coverage_50", "coverage_90", "rank_variance"):
        values = torch.tensor([one[name].value for one in found])
        assert abs(float(values.mean())) < 4 * float(values.std()) / 60**0.5 + 0.003


def test_few_samples_have_no_gap_and_no_error_by_chance():
    observed, laws = given(GAUSSIAN)
    x = torch.stack([torch.stack([law.sample(8, seed=k) for law in laws]).double() for k in range(60)])
    found = [judged("posterior_moments", each, GAUSSIAN, observed) for each in x]
    covariance = laws[0].moments()[1]
    entries = float(covariance.trace() ** 2 / covariance.square().sum())  # of a sample covariance, in its own units
    for name, chance in (("mmse_gap", 1 / 8), ("covariance_error", (1 + entries) / 7)):
        values = torch.tensor([one[name].value for one in found])
        assert abs(float(values.mean())) < 4 * float(values.std()) / 60**0.5 < chance


def test_entries_that_y_determines_do_not_count(problem):
    observed, laws = given(GAUSSIAN, "inpaint")
    x = drawn(laws)
    noisy = x.clone()
    noisy[..., :2] += 1e-4 * torch.randn(x[..., :2].shape, dtype=torch.float64)  # beside the exact values
    for samples in (x, noisy):
        found = judged("posterior_coverage", samples, GAUSSIAN, observed)
        assert abs(found["coverage_90"].value) < 0.02


def test_the_distance_of_a_shift(problem):
    observed, laws, x = problem
    deviation = math.sqrt(float(laws[0].moments()[1].trace()) / 16)
    shift = 5 * deviation * torch.ones(1, 4, 4, dtype=torch.float64)
    found = judged("posterior_distance", x + shift, GAUSSIAN, observed)["posterior_distance"].value
    u = torch.nn.functional.normalize(torch.randn(4000, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    assert found == pytest.approx(5 * float(u.sum(1).abs().mean()), rel=0.15)  # over other directions


def test_the_weights_of_modes():
    target = create("targets", "mixture2d")
    observed, laws = given(target)
    only = torch.stack([target.as_mixture().component(0).sample(EACH, seed=k).double() for k in range(OBSERVED)])
    found = judged("posterior_distance", only, target, observed)["posterior_modes"]
    full = torch.zeros(OBSERVED, len(target.modes()), dtype=torch.float64)
    known = observed.known
    for k, row in enumerate(full):  # by Bayes' rule for each component
        mixture = target.as_mixture()
        mean = mixture.means[:, 0]
        variance = mixture.factors[:, :, 0].square().sum(1) + mixture.noise[0] + 0.4**2
        log = mixture.weights.log() - 0.5 * ((known.values[k, 0] - mean) ** 2 / variance + variance.log())
        row += log.softmax(0)
    assert found.value == pytest.approx(float((1 - full[:, 0]).mean()), abs=0.02)
    assert laws


def test_the_residual_of_the_mean_and_of_chance(problem):
    observed, _, _ = problem
    truth = observed.events.double().unsqueeze(1).expand(-1, EACH, -1, -1, -1)
    known = observed.known
    noise = (known.values - known.seen(observed.events.double())) / known.noise
    expected = float(noise[known.known.expand_as(noise)].square().mean()) - 1
    assert judged("residual", truth, GAUSSIAN, observed)["residual"].value == pytest.approx(expected)


def test_no_residual_without_noise():
    observed, _ = given(GAUSSIAN, "inpaint")
    evidence = Evidence(torch.zeros(OBSERVED, 1, 4, 4), target=GAUSSIAN, observed=observed)
    assert "units of the noise" in create("evaluators", "residual").skip(evidence)


class TestRestoration:
    TARGET = create("targets", "gaussian[shape=[1,16,16],decay=2,std=0.3]")

    def observed(self):
        events = self.TARGET.sample(OBSERVED, seed=1)
        known = create("conditions", "linear[operator=mask,noise=0.4]").observe(events.double())
        return Observed(events, known)

    def test_psnr_of_noise(self):
        observed = self.observed()
        noise = 0.1 * torch.randn(OBSERVED, 100, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()
        found = judged("restoration", observed.events.double().unsqueeze(1) + noise, self.TARGET, observed)
        assert found["psnr"].value == pytest.approx(10 * math.log10(4 / 0.01), abs=0.1)
        assert found["psnr_of_mean"].value == pytest.approx(10 * math.log10(400 * 100), abs=0.3)
        assert found["ssim"].value < 0.99

    def test_ssim_of_the_truth_and_by_hand(self):
        from scoresde_plugins.evaluators.restoration import ssim

        x = torch.rand(3, 1, 11, 11, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
        y = x.roll(1, 3)[0]
        assert ssim(x[:1], x[0]) == pytest.approx(1.0)
        at = torch.arange(11).double() - 5
        w = torch.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
        w /= w.sum()
        for image, found in zip(x[:, 0], ssim(x, y), strict=True):
            a, b = (w * image).sum(), (w * y[0]).sum()
            va, vb = (w * (image - a) ** 2).sum(), (w * (y[0] - b) ** 2).sum()
            cov = (w * (image - a) * (y[0] - b)).sum()
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            hand = (2 * a * b + c1) * (2 * cov + c2) / ((a**2 + b**2 + c1) * (va + vb + c2))
            assert float(found) == pytest.approx(float(hand))

    def test_small_images_are_refused(self):
        observed, _ = given(GAUSSIAN)
        evidence = Evidence(torch.zeros(OBSERVED * 4, 1, 4, 4), target=GAUSSIAN, observed=observed)
        assert "11 x 11 pixels" in create("evaluators", "restoration").skip(evidence)

    def test_lpips_gets_images_of_three_channels_on_its_range(self, monkeypatch):
        def library(x, y):
            """In place of LPIPS: the mean absolute difference of each pair."""
            assert x.shape == y.shape == (4, 3, 32, 32)
            assert x.dtype == y.dtype == torch.float32
            return (x - y).abs().mean((1, 2, 3), keepdim=True)

        monkeypatch.setattr(restoration, "_lpips", lambda: library)
        event = torch.full((1, 32, 32), 0.5, dtype=torch.float64)
        found = create("evaluators", "restoration[lpips=true]").measure(
            event.expand(4, -1, -1, -1) - 1, Given(event, None), None
        )
        assert float(found[3]) == pytest.approx(1.0)

    def test_lpips_refuses_images_that_are_too_small_for_its_network(self):
        skip = create("evaluators", "restoration[lpips=true]").skip
        assert "needs images of 31 x 31 pixels or more" in skip(Evidence(torch.zeros(8, 1, 28, 28)))


class TestRefusals:
    @pytest.mark.parametrize("name", ["posterior_moments", "posterior_coverage", "residual", "restoration"])
    def test_without_an_observation(self, name):
        reason = create("evaluators", name).skip(Evidence(torch.zeros(40, 1, 16, 16)))
        assert reason.endswith("judges samples given y: add a --condition")

    def test_without_a_law(self):
        observed, _ = given(GAUSSIAN)
        reason = create("evaluators", "posterior_moments").skip(Evidence(torch.zeros(60, 1, 4, 4), observed=observed))
        assert "needs the law of the events" in reason

    def test_few_samples(self):
        observed, _ = given(GAUSSIAN)
        reason = create("evaluators", "posterior_coverage").skip(
            Evidence(torch.zeros(60, 1, 4, 4), target=GAUSSIAN, observed=observed)
        )
        assert "20 samples of each, or more, got 6 and 10" in reason

    def test_masks_that_differ(self):
        events = GAUSSIAN.sample(4, seed=1)
        known = create("conditions", "inpaint[mask=random]").observe(events.double())
        evidence = Evidence(torch.zeros(80, 1, 4, 4), target=GAUSSIAN, observed=Observed(events, known))
        assert "one mask for all" in create("evaluators", "posterior_moments").skip(evidence)


def test_samples_that_are_not_finite(problem):
    observed, _, x = problem
    broken = x.clone()
    broken[0, 0] = math.nan
    for name in ("posterior_moments", "posterior_coverage", "posterior_distance", "residual"):
        found = judged(name, broken, GAUSSIAN, observed)
        assert all(math.isnan(metric.value) and math.isfinite(metric.floor) for metric in found.values())
