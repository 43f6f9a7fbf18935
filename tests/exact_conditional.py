"""Mixtures whose conditional laws are closed form, and how far samples are from these."""

import math

import torch
from scoresde import ConditionedSampler, ExactScore, create, sample
from scoresde_plugins.song2021.sdes import VPSDE
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers
from scoresde_plugins.targets.mixture2d import Mixture2DTarget

# Modes (-, -), (-, +), (+, -), (+, +): given x_1 = 1/4 those with x_2 > 0 weigh 0.78, and replacement finds 0.56.
CROSS = Mixture2DTarget(layout="grid", components=4, radius=1.5, std=0.4, weights=(0.4, 0.1, 0.1, 0.4))
# Weights that are products: the coordinates are independent.
APART = Mixture2DTarget(layout="grid", components=4, radius=1.5, std=0.4, weights=(0.42, 0.28, 0.18, 0.12))
POINT = torch.tensor([[0.25, math.nan]])


def draw(target, condition, x, sampler, sde=None, rounds=1, jump=1, **more):
    """One sample of ``condition`` on each of ``x``, with the exact score."""
    conditioned = ConditionedSampler(create("samplers", sampler), condition.observe(x), rounds, jump)
    return sample(ExactScore(target, sde or VPSDE()), conditioned, len(x), **more)


def deviations(x, law):
    """How many standard errors weights, means and covariances of samples (n, d) are from those of a mixture."""
    mean, covariance = law.moments()
    common = law.modes() * len(x) > 5  # of what is rarer, the number seen is no Gaussian

    def features(x):
        centred = x.double() - mean
        products = (centred.unsqueeze(1) * centred.unsqueeze(2)).flatten(1)
        return torch.cat([law.responsibilities(x.double())[:, common], centred, products], 1)

    truth = torch.cat([law.modes()[common], torch.zeros_like(mean), covariance.flatten()])
    spread = features(law.sample(20_000, seed=1)).std(0)  # of exact draws: what chance may do
    return (features(x).mean(0) - truth) / spread * math.sqrt(len(x))


def correlated():
    """Four components of two factors over 3 x 2 x 2 images, that grey, block means and the left half tell little of."""
    generator = torch.Generator().manual_seed(4)
    means = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    means -= 0.6 * means.mean(1, keepdim=True)
    means -= 0.6 * means.mean((2, 3), keepdim=True)
    means[..., 0] *= 0.3
    factors = 0.3 * torch.randn(4, 2, 12, generator=generator, dtype=torch.float64)
    weights, noise = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.full((12,), 0.04)
    return MixtureOfFactorAnalysers(weights, means.flatten(1), factors, noise, (3, 2, 2))
