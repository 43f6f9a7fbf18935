"""Encoding by the ODE: closed form on Gaussians, the round trip, interpolation and temperature."""

import math

import pytest
import torch
from scoresde_core import ExactScore
from scoresde_core.sampler import sample
from scoresde_core.sde import GaussianPrior
from scoresde_plugins.numerics.encoding import decode, encode, interpolate, round_trip, temper
from scoresde_plugins.numerics.flow import Diverged, Solver
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.samplers import ODESampler
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mfa import MNISTMFATarget
from scoresde_plugins.targets.mixture2d import Mixture2DTarget

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
MIXTURE = Mixture2DTarget(components=5, std=0.3)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_encoding_of_a_gaussian_is_affine(sde):
    target = GaussianTarget((3,), mean=0.4, std=0.5)
    x = target.sample(10).double()
    ends = torch.tensor([sde.t_min, 1.0], dtype=torch.float64)
    alpha, sigma = sde.alpha(ends), sde.sigma(ends)
    spread = (alpha**2 * 0.25 + sigma**2).sqrt()
    expected = alpha[1] * 0.4 + (x - alpha[0] * 0.4) * spread[1] / spread[0]
    found = encode(ExactScore(target, sde), x, solver=Solver(rtol=1e-8, atol=1e-8))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_round_trip_is_at_solver_accuracy(sde):
    """Root mean square below 1e-4 at the default tolerance of 1e-5, and a hundred times lower at 1e-8."""
    x = MIXTURE.sample(32).double()
    rough = round_trip(ExactScore(MIXTURE, sde), x)
    fine = round_trip(ExactScore(MIXTURE, sde), x, solver=Solver(rtol=1e-8, atol=1e-8))
    assert float(rough.error.square().mean().sqrt()) < 1e-3
    assert float(fine.error.max()) < 1e-5
    torch.testing.assert_close(rough.error, (rough.decoded - x).square().mean(1).sqrt())


def test_round_trip_of_digits():
    target = MNISTMFATarget()
    found = round_trip(ExactScore(target, VPSDE()), target.sample(4))
    assert float(found.error.max()) < 1e-3
    assert float(found.latent.std()) == pytest.approx(1, abs=0.1)


def test_decode_is_the_ode_sampler():
    model = ExactScore(MIXTURE, VPSDE())
    latent = torch.randn(8, 2, dtype=torch.float64)
    for denoise in (True, False):
        sampled = sample(model, ODESampler(denoise=denoise), 8, latent=latent, dtype=torch.float64).x
        torch.testing.assert_close(decode(model, latent, denoise=denoise), sampled, rtol=0, atol=1e-6)


def test_batches_agree():
    model, x = ExactScore(MIXTURE, VPSDE()), MIXTURE.sample(9)
    whole, parts = encode(model, x), encode(model, x, batch_size=4)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-3)


class TestInterpolation:
    def test_stays_on_the_sphere_at_even_angles(self):
        a, b = torch.randn(2, 3, 50, dtype=torch.float64)
        a, b = (2 * v / v.norm(dim=1, keepdim=True) for v in (a, b))
        arc = interpolate(a, b, torch.linspace(0, 1, 5))
        assert arc.shape == (5, 3, 50)
        torch.testing.assert_close(arc[0], a)
        torch.testing.assert_close(arc[-1], b)
        torch.testing.assert_close(arc.norm(dim=2), torch.full((5, 3), 2.0, dtype=torch.float64))
        angles = ((arc[1:] * arc[:-1]).sum(2) / 4).acos()
        torch.testing.assert_close(angles, angles[:1].expand(4, 3), rtol=1e-8, atol=0)

    def test_quarter_of_a_circle(self):
        a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        middle = interpolate(a, b, torch.tensor([0.5]))
        expected = torch.tensor([[[1.0, 3.0]]]) * math.sqrt(0.5)
        torch.testing.assert_close(middle, expected)

    def test_about_the_mean_of_the_prior(self):
        prior = GaussianPrior(mean=5.0)
        a, b = torch.tensor([[6.0, 5.0]]), torch.tensor([[5.0, 6.0]])
        torch.testing.assert_close(
            interpolate(a, b, torch.tensor([0.5]), prior), torch.full((1, 1, 2), 5 + math.sqrt(0.5))
        )

    def test_along_a_line(self):
        a = torch.tensor([[1.0, 2.0]])
        torch.testing.assert_close(interpolate(a, 3 * a, torch.tensor([0.25])), (1.5 * a).unsqueeze(0))

    def test_opposite_latents_are_refused(self):
        a = torch.tensor([[1.0, 2.0]])
        with pytest.raises(ValueError, match="opposite"):
            interpolate(a, -a, torch.tensor([0.5]))

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 2\)"):
            interpolate(torch.ones(1, 2), torch.ones(2, 2), torch.tensor([0.5]))


def test_temperature_scales_about_the_mean():
    z = torch.tensor([[1.0, 3.0]])
    torch.testing.assert_close(temper(z, 0.5, GaussianPrior(mean=1.0)), torch.tensor([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="positive, got 0"):
        temper(z, 0.0)


def test_low_temperature_is_more_typical():
    """On a Gaussian decoding is affine: temperature T scales the standard deviation of the samples by T."""
    target, sde = GaussianTarget((2,), mean=0.4, std=0.5), VPSDE()
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    x = decode(ExactScore(target, sde), temper(z, 0.6))
    assert float(x.std() / 0.5) == pytest.approx(0.6, abs=0.02)
    assert float(x.mean()) == pytest.approx(0.4, abs=0.02)


def test_a_solver_may_take_all_of_its_evaluations():
    def solved(most):
        calls = []
        Solver(max_evaluations=most).solve(lambda t, x: calls.append(t) or -x, torch.ones(1, 1).double(), 1.0, 0.1)
        return len(calls)

    needed = solved(1000)
    assert solved(needed) == needed
    with pytest.raises(Diverged, match=f"took {needed - 1} evaluations"):
        solved(needed - 1)
