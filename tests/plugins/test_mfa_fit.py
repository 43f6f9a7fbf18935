"""Expectation maximisation: the likelihood rises, known mixtures are found, and bad starts are repaired."""

from itertools import pairwise

import attrs
import pytest
import torch
from operations import Results
from scoresde_core.target import Target
from scoresde_plugins.targets import mfa_fit
from scoresde_plugins.targets.mfa import MFATarget
from scoresde_plugins.targets.mfa_fit import bits_per_dim, dequantized, fit_mfa, save
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers


def as_images(x):
    """Data on [-1, 1] to grey levels."""
    return ((x.clamp(-1, 1 - 1e-6) + 1) * 128).floor().to(torch.uint8)


def known_mixture():
    means = torch.tensor([[-0.5, -0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.5, -0.5, 0.4, 0.0]])
    factors = torch.tensor([[[0.2, 0.0, 0.0, 0.0]], [[0.0, 0.15, 0.15, 0.0]], [[0.0, 0.0, 0.1, -0.1]]])
    return MixtureOfFactorAnalysers(
        torch.tensor([0.5, 0.3, 0.2]), means, factors, torch.tensor([0.05, 0.06, 0.07, 0.08]).square(), (1, 2, 2)
    )


@pytest.fixture(scope="module")
def images():
    return as_images(known_mixture().sample(20_000, seed=1))


@pytest.fixture(scope="module")
def fitted(images):
    return fit_mfa(images[:16_000], images[16_000:], 3, 1, 40, floor=0.01, dtype=torch.float64)


def test_the_likelihood_never_decreases(fitted):
    trace = fitted[1].log_likelihoods
    assert len(trace) == 40
    assert all(after >= before - 1e-9 for before, after in pairwise(trace))
    assert trace[-1] > trace[0] + 1e-3


def test_a_pass_is_that_of_dense_matrices():
    """Weighted least squares on E[z] and E[z z^T], from whole covariances; the factors are not orthogonal."""
    factors = torch.tensor([[[0.4, 0.3, 0.1], [0.4, 0.2, 0.0]], [[0.1, -0.3, 0.2], [0.1, -0.3, 0.4]]]).double()
    means, psi = torch.tensor([[-0.5, 0.2, 0.0], [0.4, 0.1, -0.2]]).double(), torch.tensor([0.02, 0.03, 0.05]).double()
    target = MixtureOfFactorAnalysers(torch.tensor([0.4, 0.6]), means, factors, psi, (3,), dtype=torch.float64)
    x = 0.5 * torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    covariances = factors.mT @ factors + psi.diag()
    laws = [torch.distributions.MultivariateNormal(*law) for law in zip(means, covariances, strict=True)]
    r = (torch.stack([law.log_prob(x) for law in laws]) + target.weights.log().unsqueeze(1)).softmax(0)
    stacks, explained = [], 0.0
    for k in range(2):
        gain = factors[k] @ covariances[k].inverse()
        z = torch.cat([(x - means[k]) @ gain.T, torch.ones(500, 1)], 1)
        second = z.T @ (r[k, :, None] * z)
        second[:2, :2] += r[k].sum() * (torch.eye(2) - gain @ factors[k].T)
        cross = z.T @ (r[k, :, None] * (x - target.center))
        stacks.append(torch.linalg.solve(second, cross))
        explained = explained + (stacks[k] * cross).sum(0)
    _, found, _ = mfa_fit._step(target, x, (1e-9, 1e9), torch.Generator())
    close = {"rtol": 1e-7, "atol": 1e-8}
    torch.testing.assert_close(found.weights, r.mean(1), **close)
    torch.testing.assert_close(torch.stack(stacks)[:, :-1], found.factors, **close)
    torch.testing.assert_close(torch.stack(stacks)[:, -1] + target.center, found.means, **close)
    torch.testing.assert_close(((x - target.center).square().sum(0) - explained) / 500, found.noise, **close)


def test_no_weight_of_a_fit_is_denormal(images):
    with Results() as results:
        fit_mfa(images[:4000], images[:100], 3, 1, 3, floor=0.01)
    assert results.denormal == 0


@pytest.mark.parametrize("bounds", [(0.07, 1.0), (0.01, 0.06), (0.065, 0.065)], ids=["floor", "ceiling", "both"])
def test_the_likelihood_never_decreases_under_bounds_of_the_noise(images, bounds):
    target, report = fit_mfa(images[:4000], images[:100], 4, 2, 30, *bounds, dtype=torch.float64)
    trace = report.log_likelihoods
    assert report.reseeded == 0
    assert all(after >= before - 1e-9 for before, after in pairwise(trace))
    deviation = target.noise.sqrt()
    assert float(deviation.min()) >= bounds[0] * (1 - 1e-6)
    assert float(deviation.max()) <= bounds[1] * (1 + 1e-6)


def test_a_known_mixture_is_recovered(fitted):
    target, truth = fitted[0], known_mixture()
    torch.testing.assert_close(target.weights, truth.weights, rtol=0, atol=0.015)
    torch.testing.assert_close(target.means, truth.means, rtol=0, atol=0.012)
    covariance = target.factors.mT @ target.factors + target.noise.diag()
    expected = truth.factors.mT @ truth.factors + truth.noise.diag()
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.002)


def test_the_held_out_likelihood_is_that_of_the_truth(images, fitted):
    target, report = fitted
    x = dequantized(images[16_000:], 2).double()
    density = target.log_prob(x)
    assert report.held_out_log_likelihood == pytest.approx(float(density.mean()), rel=1e-12)
    gain = known_mixture().log_prob(x) - density
    # 30 parameters cost about 30 / 2 / 16,000 nats an image; the truth cannot lose by more than chance.
    assert abs(float(gain.mean())) < 30 / 16_000 + 4 * float(gain.std()) / len(x) ** 0.5


def test_bits_per_dimension_of_the_uniform_density():
    # Uniform on [-1, 1]: 2^-D, and 256 equal grey levels hold 8 bits each.
    assert bits_per_dim(-10 * 0.6931471805599453, 10) == pytest.approx(8)


def test_dequantized_images_keep_their_grey_level():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = dequantized(images, seed=4)
    assert torch.equal(as_images(x), images)
    assert float(x.min()) >= -1
    assert float(x.max()) <= 1


def test_a_starved_component_is_seeded_again(images, monkeypatch):
    far = torch.tensor([[30.0] * 4, [0.0] * 4, [0.1] * 4])
    start = attrs.evolve(known_mixture(), means=far, dtype=torch.float64)
    monkeypatch.setattr(mfa_fit, "_start", lambda *_: start)
    target, report = fit_mfa(images[:4000], images[:100], 3, 1, 30, floor=0.01, dtype=torch.float64)
    assert report.reseeded >= 1
    assert float(target.means.abs().max()) < 1
    assert float(target.weights.min()) > 0.05 / 3


def test_the_same_arguments_give_the_same_target_and_report_progress(images):
    seen = []

    def run(**options):
        return fit_mfa(images[:500], images[:100], 2, 1, 3, seed=5, **options)

    first, report = run(progress=lambda *row: seen.append(row))
    second, _ = run()
    assert torch.equal(first.factors, second.factors)
    assert seen == [(k + 1, 3, value) for k, value in enumerate(report.log_likelihoods)]


def test_equal_images_leave_no_component_empty():
    target, _ = fit_mfa(
        torch.zeros(12, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, 1, 2, 2, dtype=torch.uint8), 6, 1, 3
    )
    assert torch.isfinite(target.means).all()
    assert float(target.weights.min()) > 0


def test_a_fit_is_written_with_its_report(fitted, tmp_path):
    target, report = fitted
    path = tmp_path / "fit.safetensors"
    save(path, target, report, data="drawn from a known mixture")
    loaded: Target = MFATarget(file=str(path))
    assert loaded.report["held_out_log_likelihood"] == report.held_out_log_likelihood
    assert loaded.report["data"] == "drawn from a known mixture"
    x = target.sample(4).double()
    torch.testing.assert_close(loaded.log_prob(x), target.log_prob(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"components": 99}, "between 1 and the 12 images, got 99", id="components"),
        pytest.param({"components": 2, "factors": 4}, "between 1 and 3, got 4", id="factors"),
        pytest.param({"components": 2, "factors": 1, "floor": 0.0}, "0 < floor <= ceiling", id="floor"),
        pytest.param({"components": 2, "factors": 1, "ceiling": 0.01}, "0 < floor <= ceiling", id="ceiling"),
        pytest.param({"components": 2, "factors": 1, "iterations": 0}, "at least 1, got 0", id="iterations"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    images = torch.zeros(12, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        fit_mfa(images, images, **options)


def test_images_must_be_grey_levels():
    with pytest.raises(ValueError, match=r"uint8, got torch\.float32"):
        fit_mfa(torch.zeros(12, 1, 2, 2), torch.zeros(12, 1, 2, 2), 2, 1)
