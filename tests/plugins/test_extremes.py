"""Extreme parameters: the result is finite, or an error names the parameter; nothing loops forever."""

import math

import pytest
import torch
from scoresde_core import ExactScore, UsageError, create, sample
from scoresde_plugins.numerics.flow import Diverged, Solver

VP = create("sdes", "vp")


class Gaussian:
    """N(0, 1), or a score ``steepness`` times as steep."""

    shape = (2,)

    def __init__(self, steepness=1.0):
        self.steepness = steepness

    def score(self, x, level):
        return -self.steepness * x


@pytest.mark.parametrize("rho", [1e-6, 1e-3, 0.05, 7.0, 1e6, 1e300])
@pytest.mark.parametrize("sde", ["ve", "vp", "subvp", "linear_ve"])
def test_karras_is_finite_for_any_rho(rho, sde):
    """(sigma/alpha)^(1/rho) is evenly spaced, where that is a float; the limit of large rho is logsnr."""
    process = create("sdes", sde)
    times = create("grids", f"karras[rho={rho:.20f}]" if rho < 1 else f"karras[rho={rho:e}]").times(process, 7)
    assert times.isfinite().all()
    if 0.05 <= rho <= 1e6:
        powers = (process.log_noise_ratio(times[:-1]) / rho).exp()
        gaps = powers.diff() / (powers[-1] - powers[0])
        assert (gaps * 6 - 1).abs().max() < (1e-6 if rho < 1e6 else 1e-3)
    if rho >= 1e6:
        torch.testing.assert_close(times, create("grids", "logsnr").times(process, 7), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rho", [1e-300, math.inf])
def test_a_grid_without_room_names_itself(rho):
    from scoresde_plugins.grids import KarrasGrid

    with pytest.raises(ValueError, match=r"KarrasGrid\(rho=.*does not give 6 different times.* fewer steps"):
        KarrasGrid(rho=rho).times(VP, 6)


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("sdes", "vp", "beta_max=1000", "beta_min \\+ beta_max must be at most 340"),
        ("sdes", "subvp", "beta_min=1e300", "beta_min"),
        ("sdes", "ve", "sigma_max=1e300", "sigma_max"),
        ("sdes", "ve", "prior_mean=1e300", "prior_mean"),
        ("sdes", "linear_ve", "sigma_max=1e999", "sigma_max"),
        ("correctors", "langevin", "snr=1e300", "snr"),
        ("correctors", "ald", "snr=1e300", "snr"),
        ("samplers", "adaptive_sde", "abs_tol=1e300", "abs_tol"),
        ("samplers", "ode", "max_evaluations=0", "max_evaluations"),
    ],
)
def test_values_beyond_any_use_are_refused_by_name(kind, name, value, words):
    with pytest.raises(UsageError, match=words):
        create(kind, f"{name}[{value}]")


@pytest.mark.parametrize(
    "sde", ["vp[beta_max=339]", "ve[sigma_max=1e15]", "ve[sigma_min=1e-12]", "linear_ve[sigma_max=1e12]"]
)
@pytest.mark.parametrize(
    "sampler", ["pc[steps=5,predictor=ancestral_sampling]", "pc[steps=5,predictor=dpmpp_2m,grid=logsnr]"]
)
def test_the_largest_that_are_taken_work(sde, sampler):
    target = create("targets", "mixture2d")
    drawn = sample(ExactScore(target, create("sdes", sde)), create("samplers", sampler), 3)
    assert drawn.x.isfinite().all()


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun"])
def test_a_stiff_score_ends_with_one_line(method):
    """Its steps shrink for stability and never vanish: without a limit the solver went on for hours."""
    sampler = create("samplers", f"ode[method={method},max_evaluations=500]")
    model = ExactScore(Gaussian(steepness=-1e6), VP)
    with pytest.raises(Diverged, match=r"took 500 evaluations \(max_evaluations\) and only got from t = 1 to ") as told:
        sample(model, sampler, 4)
    assert model.calls == 500
    assert "\n" not in str(told.value)
    assert sample(ExactScore(Gaussian(), VP), sampler, 4).x.isfinite().all()


def test_the_limit_counts_one_solution():
    solver = Solver(max_evaluations=60)
    for _ in range(3):
        solver.solve(lambda t, x: -x, torch.ones(2, dtype=torch.float64), 0.0, 1.0)
