"""ScoreFlow's bound: its times against the published code, its value against exact likelihoods."""

import math

import numpy as np
import pytest
import torch
from scoresde_conformance.exact import Watched
from scoresde_core import ExactScore
from scoresde_plugins.likelihood.bound import likelihood_bound
from scoresde_plugins.score_flow.importance import importance_times, total_weight
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mixture2d import Mixture2DTarget

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
GAUSSIAN = GaussianTarget((2,), mean=0.3, std=0.5)


def gap(target, sde, n=64, model=None, **options):
    """Mean excess over the exact value in bits/dim, and its standard error."""
    x = target.sample(n).double()
    found = likelihood_bound(model or ExactScore(target, sde), x, **options)
    excess = (found.nats + target.log_prob(x)) / (2 * math.log(2))
    return float(excess.mean()), float(excess.std()) / math.sqrt(n)


@pytest.mark.parametrize("name", ["vp", "subvp"])
class TestGoldenTimes:
    def test_normalisation(self, shared, name):
        golden = np.load(shared / "golden" / "score_flow.npz")
        found = total_weight(SDES[name], float(golden[f"{name}/eps"]))
        assert found == pytest.approx(float(golden[f"{name}/Z"]), rel=1e-6)

    def test_times(self, shared, name):
        golden = np.load(shared / "golden" / "score_flow.npz")
        share = torch.from_numpy(golden[f"{name}/quantile_fraction"])
        expected = golden[f"{name}/time"]
        off = importance_times(SDES[name], share, float(golden[f"{name}/eps"])).numpy() / expected - 1
        assert np.abs(off).max() < 1e-3
        # Below t = 0.01 the published code inverts a float32 series, good to 2e-4.
        assert np.abs(off[expected > 0.01]).max() < 1e-5


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_times_have_the_density_g2_over_sigma2(sde):
    """The share below a time is the integral of g^2 / sigma^2, by quadrature."""
    t_min = 1e-3
    fine = torch.logspace(-3, 0, 100_001, dtype=torch.float64)
    density = sde.diffusion(fine).square() / sde.sigma(fine).square()
    cumulative = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, fine)])
    assert total_weight(sde, t_min) == pytest.approx(float(cumulative[-1]), rel=1e-5)
    share = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    times = importance_times(sde, share, t_min)
    below = torch.tensor(np.interp(times.numpy(), fine.numpy(), cumulative.numpy()))
    torch.testing.assert_close(below / cumulative[-1], share, rtol=1e-4, atol=0)


@pytest.mark.parametrize("form", ["dsm", "ssm"])
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_tight_for_the_exact_score(sde, form):
    """0 within 4 standard errors of a few hundredths of a bit, never below."""
    excess, error = gap(GAUSSIAN, sde, form=form, times=200)
    assert error < 0.05
    assert abs(excess) < 4 * error


def test_tight_on_a_mixture():
    excess, error = gap(Mixture2DTarget(components=4, std=0.4), VPSDE(), n=128, times=200)
    assert error < 0.06
    assert abs(excess) < 4 * error


@pytest.mark.parametrize("importance", [True, False], ids=["importance", "uniform"])
@pytest.mark.parametrize("form", ["dsm", "ssm"])
def test_above_for_a_wrong_score(form, importance):
    """For s = c grad log p_t the excess is the integral of g^2 (c - 1)^2 E|grad log p_t|^2 / 2, by quadrature.

    The bound holds for the law of the model's own SDE; the excess over the data's exact value is the KL between paths.
    """
    sde, factor = VPSDE(), 0.8

    class TooSmall(Watched):
        def evaluate(self, x, level):
            return factor * super().evaluate(x, level)

    t = torch.logspace(-3, 0, 20_001, dtype=torch.float64)
    variance = sde.alpha(t).square() * 0.25 + sde.sigma(t).square()
    path = 0.5 * torch.trapezoid(sde.diffusion(t).square() * (1 - factor) ** 2 * 2 / variance, t)
    excess, error = gap(
        GAUSSIAN, sde, n=256, model=TooSmall(GAUSSIAN, sde), form=form, times=200, importance=importance, t_min=1e-3
    )
    assert error < 0.03
    assert abs(excess - float(path) / (2 * math.log(2))) < 4 * error


@pytest.mark.parametrize("t_min", [1e-2, 1e-1])
def test_offset_in_closed_form(t_min):
    """With the offset: E_x[-log p(x)] plus the KL of the Gaussian decoder from the exact posterior of x given x_t.

    Both Gaussian with one mean (Tweedie), variances d = sigma^2/alpha^2 and v = 1 / (1/s^2 + 1/d): per dimension
    (v/d - 1 - log(v/d)) / 2. Without it: the entropy of the noisy data.
    """
    sde, std = VPSDE(), 0.5
    alpha, sigma = (float(f(torch.tensor(t_min, dtype=torch.float64))) for f in (sde.alpha, sde.sigma))
    decoder = (sigma / alpha) ** 2
    ratio = 1 / (1 / std**2 + 1 / decoder) / decoder
    slack = 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)
    excess, error = gap(GAUSSIAN, sde, n=256, times=200, t_min=t_min)
    assert error < 0.02
    assert abs(excess - slack) < 4 * error

    x = GAUSSIAN.sample(256).double()
    bare = likelihood_bound(ExactScore(GAUSSIAN, sde), x, times=200, t_min=t_min, offset=False).nats
    noisy = math.log(2 * math.pi * math.e * (alpha**2 * std**2 + sigma**2))
    assert abs(float(bare.mean()) - noisy) < 4 * float(bare.std()) / 16


@pytest.mark.parametrize("t_min", [1e-5, 0.1])  # of the second most is that of the offset
def test_standard_error_is_the_scatter_of_seeds(t_min):
    x = GAUSSIAN.sample(1).double().expand(200, 2)
    found = likelihood_bound(ExactScore(GAUSSIAN, VPSDE()), x, times=200, t_min=t_min)
    assert float(found.nats.std()) == pytest.approx(float(found.stderr.square().mean().sqrt()), rel=0.25)


def test_any_split_gives_the_same():
    x, model = GAUSSIAN.sample(9).double(), ExactScore(GAUSSIAN, VPSDE())
    whole = likelihood_bound(model, x, times=100, seed=2)
    parts = likelihood_bound(model, x, times=100, seed=2, batch_size=4)
    torch.testing.assert_close(whole.nats, parts.nats)
    tail = likelihood_bound(model, x[5:], times=100, seed=2, first=5)
    torch.testing.assert_close(whole.nats[5:], tail.nats)


def test_nfe_is_counted_per_sample():
    model = Watched(GAUSSIAN)
    found = likelihood_bound(model, GAUSSIAN.sample(4), times=100, batch_size=2)
    assert found.nfe * 2 == model.evaluations


@pytest.mark.parametrize(("options", "problem"), [({"times": 10}, "100 times"), ({"t_min": 0.0}, "between 0 and 1")])
def test_bad_options(options, problem):
    with pytest.raises(ValueError, match=problem):
        likelihood_bound(ExactScore(GAUSSIAN, VPSDE()), GAUSSIAN.sample(2), **options)
