"""Orders of convergence with no statistical noise (Pierret & Galerne 2025, arXiv:2405.14250).

On Gaussian data every predictor is an affine map of the state plus Gaussian noise, so the law of the sampler is a
Gaussian whose mean and covariance follow exactly, and its Wasserstein-2 distance to the true marginal is a formula.
"""

import math

import pytest
import torch
from scoresde_core import ExactScore, Schedule, create, default_registry
from scoresde_plugins.evaluators.moments import gaussian_w2

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.4, 0.25], [0.25, 0.3]], dtype=torch.float64)
END = 0.2
PREDICTORS = ["euler_maruyama", "reverse_diffusion", "ancestral_sampling", "probability_flow", "ddim", "ddim[eta=1]"]


def marginal(sde, t):
    """Mean and covariance of the exact marginal."""
    t = torch.tensor(t, dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64)
    return sde.alpha(t) * MEAN, sde.alpha(t) ** 2 * COVARIANCE + sde.sigma(t) ** 2 * identity


def law_of_the_sampler(predictor, sde, steps):
    """Mean and covariance after ``steps`` steps from the exact marginal at t = 1 to ``END``."""
    target = create("targets", "gaussian[shape=[2],mean=[0.5,-1],covariance=[[0.4,0.25],[0.25,0.3]]]")
    model = ExactScore(target.to("cpu", torch.float64))
    mean, covariance = marginal(sde, 1.0)
    # The image of 0 is the offset; those of the unit vectors give the columns of the matrix.
    probe = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)])
    for step in Schedule(sde, torch.linspace(1, END, steps + 1)).steps:
        quiet, _ = predictor.step(probe, step, model, lambda: torch.zeros_like(probe))
        loud, _ = predictor.step(probe, step, model, lambda: torch.ones_like(probe))
        matrix, noise = (quiet[1:] - quiet[0]).T, (loud - quiet)[0]
        mean = matrix @ mean + quiet[0]
        covariance = matrix @ covariance @ matrix.T + torch.diag(noise**2)
    return mean, covariance


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp", "linear_ve"])
@pytest.mark.parametrize("name", PREDICTORS)
def test_wasserstein_distance_falls_at_the_declared_order(name, sde):
    predictor, sde = create("predictors", name), create("sdes", sde)
    truth = marginal(sde, END)
    errors = [float(gaussian_w2(*law_of_the_sampler(predictor, sde, n), *truth)) for n in (400, 800)]
    if max(errors) < 1e-9:  # nothing left to converge: the step is exact on Gaussian data
        return
    assert math.log2(errors[0] / errors[1]) == pytest.approx(predictor.order, abs=0.3)


def test_every_registered_predictor_is_here():
    """Or in test_fast_samplers: multistep methods and those of order 2, which are exact here to rounding."""
    elsewhere = {"dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc", "deis", "ipndm", "pndm", "dpm_solver_2", "heun"}
    elsewhere |= {"dpmpp_3m_sde", "sa_solver", "er_sde", "seeds"}  # in test_stochastic_samplers
    registered = {entry.row.name for entry in default_registry().entries("predictors") if entry.owner == "scoresde"}
    assert registered - {name.split("[")[0] for name in PREDICTORS} == {"none"} | elsewhere
