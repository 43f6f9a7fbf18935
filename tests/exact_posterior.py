"""The exact posterior of a mixture as a target, and how samplers of a Gaussian map their latents."""

import torch
from scoresde import ConditionedSampler, sample
from scoresde_plugins.posterior.exact import PosteriorLaw
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers


def law_of(target, known, row=0):
    """The law of ``target`` given observation ``row``, as a target: draws, moments, weights.

    Components of a weight below 1e-12 are left out; variances are at least a millionth of the largest.
    """
    law = PosteriorLaw(target, known)
    weights, means = law.given(known.values[row : row + 1])
    kept = weights[0] > -27
    values = law.variances[kept].double().clamp_min(1e-6 * float(law.variances.max()))
    noise = 0.5 * values.min()
    factors = (law.bases[kept].double() * (values - noise).sqrt().unsqueeze(1)).mT
    dim, shape = values.shape[1], target.shape
    return MixtureOfFactorAnalysers(weights[0, kept].exp(), means[0, kept], factors, noise.expand(dim), shape)


def affine(model, sampler, observed, mean, covariance):
    """Mean and covariance of what a sampler without noise, whose map is affine, makes of the posterior's x_t at t_max.

    ``mean`` (D,) and ``covariance`` (D, D) are those of the posterior.
    """
    end = model.sde.float_level(model.sde.t_max)
    marginal = end.alpha**2 * covariance + end.sigma**2 * torch.eye(len(mean)).double()
    spread = torch.cat([torch.zeros(1, len(mean)).double(), torch.linalg.cholesky(marginal).T])
    conditioned = ConditionedSampler(sampler, observed)
    x = sample(model, conditioned, len(spread), latent=end.alpha * mean + spread, dtype=torch.float64).x
    slope = x[1:] - x[0]
    return x[0], slope.T @ slope
