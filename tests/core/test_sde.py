"""SDEs against closed forms, the published numbers of ScoreFlow, and few-step chains that break the published code."""

import math

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor
from scoresde_core.schedule import Schedule
from scoresde_core.sde import DATA, SDE, GaussianPrior
from scoresde_plugins.grids import KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
GRIDS = {"uniform": UniformGrid(), "quadratic": QuadraticGrid(), "logsnr": LogSNRGrid(), "karras": KarrasGrid()}


@pytest.fixture(params=list(SDES))
def sde(request):
    return SDES[request.param]


class OnlyThePath(SDE):
    """An SDE reduced to alpha and sigma, so that everything else is derived."""

    def __init__(self, sde):
        self.sde, self.t_min = sde, sde.t_min

    def alpha(self, t):
        return self.sde.alpha(t)

    def sigma(self, t):
        return self.sde.sigma(t)


def test_drift_and_diffusion_follow_from_the_path(sde):
    t = torch.linspace(sde.t_min, 1, 50, dtype=torch.float64)
    derived = OnlyThePath(sde)
    torch.testing.assert_close(derived.drift_rate(t), sde.drift_rate(t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(derived.diffusion(t), sde.diffusion(t), rtol=1e-9, atol=1e-12)


def test_derived_prior_is_the_marginal_of_zero(sde):
    assert OnlyThePath(sde).prior.std == pytest.approx(sde.prior.std, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "key"), [(n, k) for n in ("vp", "subvp") for k in ("mean_coeff", "std", "diffusion")], ids="-".join
)
def test_score_flow_high_precision_near_zero(shared, name, key):
    with np.load(shared / "golden" / "score_flow.npz") as file:
        t, published = (torch.as_tensor(file[f"{name}/{k}"], dtype=torch.float64) for k in ("t", key))
    ours = {"mean_coeff": SDES[name].alpha, "std": SDES[name].sigma, "diffusion": SDES[name].diffusion}[key]
    # ScoreFlow's series is first order near t = 0: exact to float32 at its smallest times, 1e-3 where it hands over.
    torch.testing.assert_close(ours(t), published, rtol=1e-3, atol=0)
    torch.testing.assert_close(ours(t.float()).double(), ours(t), rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_integral_of_beta_in_closed_form(name):
    sde, t = SDES[name], torch.tensor([0.25, 1.0], dtype=torch.float64)
    total = [0.1 * u + 19.9 * u * u / 2 for u in t.tolist()]
    torch.testing.assert_close(sde.alpha(t), torch.tensor([math.exp(-b / 2) for b in total], dtype=torch.float64))
    noise = [1 - math.exp(-b) for b in total]
    expected = noise if name == "subvp" else [math.sqrt(v) for v in noise]
    torch.testing.assert_close(sde.sigma(t), torch.tensor(expected, dtype=torch.float64))


def test_published_values_at_the_ends():
    """As printed by the published code, float32: the last time, and the first and last entry of DDPM's table."""
    one = torch.ones((), dtype=torch.float64)
    assert float(SDES["vp"].alpha(one)) == pytest.approx(6.57e-3, rel=1e-3)
    assert float(SDES["vp"].sigma(one)) == pytest.approx(0.999978, abs=1e-6)
    assert float(SDES["subvp"].sigma(one)) == pytest.approx(0.999957, abs=1e-6)
    assert float(SDES["vp"].discrete_level(0 * one, 1000).sigma) == pytest.approx(0.01, rel=1e-4)
    assert float(SDES["vp"].discrete_level(one, 1000).sigma) == pytest.approx(0.99998, abs=5e-6)


@pytest.mark.parametrize(
    ("mean", "nats"), [((0.4914, 0.4822, 0.4465), 0.14), (0.0, 0.0), ((1.0, 1.0, 1.0), 3072 / 5000)]
)
def test_the_divergence_of_a_shifted_prior(mean, nats):
    """KL(N(mean, 50^2) | N(0, 50^2)) = D mean^2 / (2 50^2): 0.14 nats in all for the channel means of CIFAR-10."""
    moved, plain = VESDE(prior_mean=mean).prior, VESDE().prior
    z = torch.randn(4096, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = moved.from_noise(torch.cat([z, -z]))  # in pairs, so that the linear part of the difference cancels
    found = 16 * float((moved.log_prob(x) - plain.log_prob(x)).mean())
    assert found == pytest.approx(nats, abs=3e-3)


@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize("steps", [1, 2, 5, 15, 20, 21, 50])
def test_every_chain_is_finite_for_any_number_of_steps(sde, grid, steps):
    """The published VP tables are NaN for N <= 20."""
    schedule = Schedule(sde, GRIDS[grid].times(sde, steps))
    assert len(schedule) == steps
    for step in schedule.steps:
        numbers = [v for f, v in attrs.asdict(step, recurse=False).items() if isinstance(v, float)]
        assert all(map(math.isfinite, numbers))
        assert step.discrete_drift > -1


@pytest.mark.parametrize("steps", [21, 100, 1000])
def test_vp_chain_is_ddpm_table_on_the_published_grid(steps):
    sde = VPSDE()
    chain = sde.discretize(UniformGrid().times(sde, steps))
    beta = np.linspace(0.1 / steps, 20 / steps, steps)[::-1].copy()
    np.testing.assert_allclose(chain.diffusion.numpy() ** 2, beta, rtol=1e-12)
    np.testing.assert_allclose((1 + chain.drift.numpy()) ** 2, 1 - beta, rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 100, 1000])
def test_ve_chain_is_smld_table_on_the_published_grid(steps):
    sde = VESDE()
    chain = sde.discretize(UniformGrid().times(sde, steps))
    sigma = np.exp(np.linspace(np.log(0.01), np.log(50), steps))
    expected = np.sqrt(sigma**2 - np.concatenate([[0], sigma[:-1]]) ** 2)[::-1]
    np.testing.assert_allclose(chain.diffusion.numpy(), expected, rtol=1e-9)
    assert (chain.drift == 0).all()


def test_vp_table_and_exact_transition_agree_in_the_limit():
    """DDPM's table is the first-order expansion of the exact transition."""
    sde, gaps = VPSDE(), []
    for steps in (500, 1000, 2000):
        times = UniformGrid().times(sde, steps)
        table, exact = sde.transition(times), SDE.transition(sde, times)
        middle = slice(steps // 4, -steps // 4)
        gaps.append(float((table.std / exact.std - 1)[middle].abs().max()))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.15)


def test_transitions_compose_to_the_marginal(sde):
    times = QuadraticGrid().times(sde, 40)
    exact = SDE.transition(sde, times)
    alpha, variance = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for k in reversed(range(40)):
        alpha, variance = alpha * exact.scale[k], variance * exact.scale[k] ** 2 + exact.std[k] ** 2
    torch.testing.assert_close(alpha, sde.alpha(times[0]), rtol=1e-9, atol=0)
    torch.testing.assert_close(variance.sqrt(), sde.sigma(times[0]), rtol=1e-9, atol=0)


def test_last_step_leads_to_clean_data(sde):
    assert Schedule(sde, UniformGrid().times(sde, 10))[9].next == DATA


def test_prior_of_ve_takes_a_mean_per_channel():
    prior = VESDE(prior_mean=(0.5, -1.0, 2.0)).prior
    z = torch.zeros(2, 3, 4, 4)
    assert (prior.from_noise(z)[:, 1] == -1).all()
    independent = torch.distributions.Normal(torch.tensor([0.5, -1.0, 2.0]).reshape(3, 1, 1).expand(3, 4, 4), 50.0)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 50
    torch.testing.assert_close(prior.log_prob(x), independent.log_prob(x).flatten(1).sum(1))


def test_prior_with_wrong_number_of_channels_says_so():
    with pytest.raises(ValueError, match=r"3 channel means.*\(2, 1, 4, 4\)"):
        GaussianPrior((0.0, 0.0, 0.0)).from_noise(torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize(("n", "index"), [(1000, 0), (1000, 399), (1000, 999), (50, 13)])
def test_discrete_levels_are_the_published_tables(n, index):
    t = torch.tensor(index / (n - 1), dtype=torch.float64)
    alpha_bar = np.cumprod(1 - np.linspace(0.1 / n, 20 / n, n))[index]
    level = VPSDE().discrete_level(t, n)
    assert float(level.alpha) == pytest.approx(math.sqrt(alpha_bar), rel=1e-9)
    assert float(level.sigma) == pytest.approx(math.sqrt(1 - alpha_bar), rel=1e-9)
    sigma = np.exp(np.linspace(np.log(0.01), np.log(50), n))[index]
    assert float(VESDE().discrete_level(t, n).sigma) == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize("bad", [dict(sigma_min=0.0), dict(sigma_max=0.001), dict(t_min=1.5)], ids=str)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        VESDE(**bad)


@pytest.mark.parametrize("times", [[1.0], [0.5, 0.7], [1.0, 0.5, -0.1]], ids=str)
def test_invalid_times_are_refused(times):
    with pytest.raises(ValueError, match="decreasing"):
        Schedule(VPSDE(), torch.tensor(times))


def test_the_spacing_of_grids():
    sde = VESDE()
    log_ratio = sde.sigma(LogSNRGrid().times(sde, 11)[:-1]).log()
    torch.testing.assert_close(log_ratio.diff(), log_ratio.diff().mean().expand(10), rtol=1e-9, atol=0)
    root = sde.sigma(KarrasGrid(rho=3.0).times(sde, 11)[:-1]) ** (1 / 3)
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(10), rtol=1e-9, atol=0)
    half = QuadraticGrid().times(sde, 11)[:-1].sqrt()
    torch.testing.assert_close(half.diff(), half.diff().mean().expand(10), rtol=1e-9, atol=0)


def test_a_new_sde_needs_two_methods():
    @attrs.frozen
    class Half(SDE):
        def alpha(self, t: Tensor) -> Tensor:
            return 1 - t / 2

    with pytest.raises(TypeError, match="sigma"):
        Half()


def test_the_exact_chain_is_an_option():
    times = UniformGrid().times(VPSDE(), 50)
    sde = VPSDE(chain="exact")
    exact = SDE.transition(sde, times)
    torch.testing.assert_close(sde.discretize(times).drift, exact.scale - 1)
    assert not torch.allclose(VPSDE().discretize(times).drift, exact.scale - 1, rtol=1e-3)
    ve = VESDE(chain="exact")
    torch.testing.assert_close(ve.discretize(times).diffusion, SDE.transition(ve, times).std)
