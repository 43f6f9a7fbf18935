"""Wrong processes of the wider kinds are named, with the method that is wrong; right ones pass."""

import math
from types import SimpleNamespace

import attrs
import pytest
import torch
from scoresde import create
from scoresde_conformance.candidate import Skip, own_checks
from scoresde_plugins.blurring.sdes import BlurringSDE
from scoresde_plugins.cld.sdes import CriticallyDampedSDE
from scoresde_plugins.double_well.sdes import DoubleWellPrior, DoubleWellSDE
from scoresde_plugins.linear.diagonal import PerChannelSDE
from scoresde_plugins.restoration.sdes import OUVESDE, SBVESDE


class StrayingSDE(OUVESDE):
    """Its mean stops short of y."""

    def centre(self, t):
        return 0.9 * super().centre(t)


class LoudSDE(OUVESDE):
    """Its diffusion is not that of its noise."""

    def diffusion(self, t):
        return 1.1 * super().diffusion(t)


class LoudBridgeSDE(SBVESDE):
    """Its noise has another scale than its diffusion."""

    def sigma(self, t):
        return super().sigma(t) * (1 + 0.1 * t)

    def diffusion(self, t):
        return SBVESDE().diffusion(t)


class PullingSDE(CriticallyDampedSDE):
    """Its drift is that of another mass."""

    def drift_rate(self, t):
        return 1.05 * super().drift_rate(t)


class ShakingSDE(CriticallyDampedSDE):
    """Its noise is larger than its covariance says."""

    def diffusion(self, t):
        return 1.05 * super().diffusion(t)


class CholeskySDE(CriticallyDampedSDE):
    """Its sigma is a root of the covariance, but not that of the flow."""

    def sigma(self, t):
        return torch.linalg.cholesky(self.covariance(t.double().clamp_min(1e-5))).to(t.dtype)


class HeavyPriorSDE(CriticallyDampedSDE):
    """Its velocity starts with another variance than it has."""

    @property
    def prior(self):
        return attrs.evolve(super().prior, std=(1.0, 0.6))


class SharpSDE(BlurringSDE):
    """Its drift rate forgets the blur."""

    def drift_rate(self, t):
        return self.noise.drift_rate(t)[..., None, None, None].expand(*t.shape, 1, self.size, self.size)


class CrossedSDE(PerChannelSDE):
    """Its channels have each other's noise."""

    def diffusion(self, t):
        return super().diffusion(t).flip(-1)


class ColdWellSDE(DoubleWellSDE):
    """Its prior is that of another temperature."""

    @property
    def prior(self):
        return DoubleWellPrior(0.7 * self.temperature)


class HalfPrior(DoubleWellPrior):
    def log_prob(self, x):
        return super().log_prob(x) - math.log(2)


class ThinWellSDE(DoubleWellSDE):
    """The density of its prior is half of what it should be."""

    @property
    def prior(self):
        return HalfPrior(self.temperature)


def failures(component):
    holder = SimpleNamespace(component=component, full=False)
    found = {}
    for check in own_checks("sdes"):
        try:
            check(holder)
        except Skip:
            continue
        except AssertionError as error:
            found[check.__name__] = str(error)
    return found


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (StrayingSDE, "is_still_at_its_observation", "centre disagrees with alpha"),
        (LoudSDE, "sigma_fits_the_diffusion", "diffusion disagrees with sigma"),
        (LoudBridgeSDE, "sigma_fits_the_diffusion", "diffusion disagrees with sigma"),
        (PullingSDE, "matrices_solve_the_moment_equations", "the slope of alpha"),
        (ShakingSDE, "matrices_solve_the_moment_equations", "the slope of sigma sigma^T"),
        (CholeskySDE, "matrices_solve_the_moment_equations", "from that of the probability flow"),
        (HeavyPriorSDE, "matrices_solve_the_moment_equations", "nats from the state at t_max"),
        (SharpSDE, "alpha_fits_the_drift", "drift_rate disagrees with alpha"),
        (CrossedSDE, "sigma_fits_the_diffusion", "diffusion disagrees with sigma"),
        (ColdWellSDE, "simulation_ends_in_the_prior", "that of the prior"),
        (ThinWellSDE, "simulation_ends_in_the_prior", "integrates to 0.5"),
    ],
)
def test_wrong_processes_are_named(cls, check, words):
    component = cls(size=6) if issubclass(cls, BlurringSDE) else cls()
    assert words in failures(component)[check]


@pytest.mark.parametrize("text", ["ouve", "sbve", "ir_sde", "cld", "double_well", "per_channel", "blurring[size=6]"])
def test_right_ones_pass(text):
    assert failures(create("sdes", text)) == {}
