"""Processes without signal at the end, tables of discrete models, and the networks and losses that go with them."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from scoresde import DATA, Draws, ExactScore, Level, NetworkScore, create, default_registry, sample
from scoresde_core.errors import UsageError
from scoresde_core.steps import advance
from scoresde_plugins.likelihood.likelihood import log_likelihood
from scoresde_plugins.numerics.encoding import encode
from scoresde_run.models.parameterisation import PARAMETERISATIONS
from scoresde_run.sampling.start import start_from

PREDICTORS = [entry.row.name for entry in default_registry().entries("predictors") if entry.owner == "scoresde"]
VANISHING = ("rectified_flow", "trigflow", "cosine", "table[zero_terminal_snr=true]")
MEAN, STD = 0.3, 0.5
LATENT = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)


def exact(sde):
    target = create("targets", f"gaussian[shape=[1],mean={MEAN},std={STD}]")
    return ExactScore(target.to("cpu", torch.float64), sde)


@pytest.fixture(params=VANISHING)
def sde(request):
    return create("sdes", request.param)


def test_there_is_no_signal_at_the_end(sde):
    end = sde.float_level(1.0)
    assert end.alpha == 0
    assert end.sigma == 1
    assert sde.t_signal == 1 - sde.t_min
    assert create("sdes", "vp").t_signal == 1


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_starts_from_noise_alone(name, sde):
    """A run from the prior has the law of the data, or is refused with the reason."""
    predictor = create("predictors", name)
    if predictor.idle:
        return
    if reason := predictor.skip(sde):
        assert name == "probability_flow"
        assert "use ddim, or euler_maruyama[probability_flow=true]" in reason
        return
    errors = []
    for steps in (25, 100):
        n = 4000 if predictor.stochastic else 400
        z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1)
        sampler = create("samplers", f"pc[predictor={name},steps={steps}]")
        x = sample(exact(sde), sampler, n, seed=2, latent=z, dtype=torch.float64).x
        errors.append((abs(float(x.mean()) - MEAN) / STD, abs(float(x.std()) / STD - 1)))
    mean, std = errors[1]
    noise = 4 / math.sqrt(4000) if predictor.stochastic else 0.0
    assert mean <= 0.02 + noise
    assert std <= 0.04 + noise / math.sqrt(2)
    assert std <= max(0.6 * errors[0][1], 0.005) + noise


def test_the_first_step_is_exact_where_the_denoised_state_is_constant(sde):
    """alpha' D + (sigma' / sigma) x, for every predictor."""
    from scoresde_core.schedule import Schedule

    step = Schedule(sde, torch.tensor([1.0, 0.7, 0.0], dtype=torch.float64))[0]
    for name in ("ddim", "ddim[eta=1]", "unipc"):
        x, mean, past = advance(create("predictors", name), LATENT, step, exact(sde), torch.zeros, (1, 2))
        torch.testing.assert_close(x, step.next.alpha * MEAN + step.next.sigma * LATENT)
        assert torch.equal(x, mean)
        assert past == ()


@pytest.mark.parametrize("sampler", ["ode", "ode[method=rk4,steps=40]"])
def test_the_flow_maps_quantiles_to_quantiles(sampler, sde):
    x = sample(exact(sde), create("samplers", sampler), 9, latent=LATENT, dtype=torch.float64).x
    left = float(sde.float_level(sde.t_min).sigma)
    torch.testing.assert_close(x, MEAN + STD * LATENT, rtol=0, atol=3e-4 + left**2)


def test_the_adaptive_sampler_finds_the_moments(sde):
    x = sample(exact(sde), create("samplers", "adaptive_sde[rel_tol=0.05]"), 2000, seed=1, dtype=torch.float64).x
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(2000))
    assert float(x.std()) == pytest.approx(STD, rel=4 / math.sqrt(4000) + 0.02)


def test_likelihood_and_latents_are_closed_form(sde):
    model, x = exact(sde), MEAN + STD * LATENT
    at = sde.float_level(sde.t_min)
    variance = (at.alpha * STD) ** 2 + at.sigma**2
    expected = -0.5 * ((x - at.alpha * MEAN) ** 2 / variance + math.log(2 * math.pi * variance)).squeeze(1)
    found = log_likelihood(model, x, trace="exact", t_min=sde.t_min)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(encode(model, x), (x - at.alpha * MEAN) / math.sqrt(variance), rtol=0, atol=2e-4)


class Oracle(nn.Module):
    """The network whose reading is a given denoised state."""

    def __init__(self, name, level, denoised):
        super().__init__()
        self.name, self.level, self.denoised = name, level, denoised

    def forward(self, seen, label):
        a, s, d = self.level.alpha, self.level.sigma, self.denoised
        c = 0.5
        root = math.sqrt(s**2 + (a * c) ** 2)
        x = seen * root if self.name == "edm" else seen
        eps = (x - a * d) / s
        if self.name == "edm":  # F = (D - c_skip y) / c_out, in y = x / alpha and the ratio s / alpha
            return (d - x * c**2 * a / root**2) / (s * c / root)
        return {"denoised": d, "v": a * eps - s * d, "flow": eps - d}[self.name]


@pytest.mark.parametrize("name", ["denoised", "v", "flow", "edm"])
@pytest.mark.parametrize("level", [Level(0.4, 0.8, 0.7), Level(1.0, 0.0, 1.0), Level(1.0, 1.0, 80.0)], ids=str)
def test_parameterisations_give_the_denoised_state(name, level):
    x, d = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = NetworkScore(Oracle(name, level, d), create("sdes", "vp"), parameterisation=name, label="t")
    torch.testing.assert_close(model.denoised(x, level), d, rtol=1e-9, atol=1e-9)
    assert model.rows == 5
    torch.testing.assert_close(model.score(x, level), (level.alpha * d - x) / level.sigma**2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(n for n, p in PARAMETERISATIONS.items() if p.denoised is None))
def test_a_network_that_cannot_start_is_refused(name):
    model = NetworkScore(nn.Identity(), create("sdes", "rectified_flow"), (1,), parameterisation=name, label="t")
    with pytest.raises(UsageError, match=f"parameterisation {name} gives no denoised state where alpha = 0"):
        sample(model, create("samplers", "pc[predictor=ddim,steps=3]"), 2)


def test_a_configuration_that_cannot_start_is_refused():
    from scoresde_run.models.model import plan_model

    config = default_registry().create("presets", "moons_vp").override(["model.sde=rectified_flow"])
    with pytest.raises(UsageError, match="says nothing of the data at the start of rectified_flow"):
        plan_model(config, default_registry())
    assert plan_model(config.override(["model.network.parameterisation=flow"]), default_registry())


def test_guidance_at_the_start_is_the_limit_of_later_times():
    """The classifier's pull on E[x_0 | x, y] does not vanish with its gradient."""
    sde = create("sdes", "rectified_flow")
    target = create("targets", "mixture2d").to("cpu", torch.float64)
    blank = torch.zeros(3, 2, dtype=torch.float64)
    guided = create("conditions", "class[label=1,target=mixture2d]").observe(blank).guide(ExactScore(target, sde))
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near = Level(1 - 1e-6, 1e-6, 1 - 1e-6)
    limit = guided.denoised(x, near)
    assert float((limit - target.moments()[0]).abs().max()) > 0.1
    torch.testing.assert_close(guided.denoised(x, sde.float_level(1.0)), limit, rtol=0, atol=0.02)


class TestTable:
    def test_its_entries_are_the_published_ones(self):
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        products = np.cumprod(1 - betas)
        sde, t = create("sdes", "table[betas=scaled_linear]"), torch.arange(1000, dtype=torch.float64) / 999
        np.testing.assert_allclose(sde.alpha(t).square().numpy(), products, rtol=1e-12)
        np.testing.assert_allclose(sde.sigma(t).square().numpy(), 1 - products, rtol=1e-9)

    def test_cosine_betas_are_bounded(self):
        sde, t = create("sdes", "table[betas=squaredcos]"), torch.arange(1000, dtype=torch.float64) / 999
        ratios = sde.alpha(t[1:]).square() / sde.alpha(t[:-1]).square()
        assert float(ratios[-1]) == pytest.approx(0.001, rel=1e-6)
        level = create("sdes", "cosine").float_level(0.5)
        assert float(sde.alpha(t[499])) == pytest.approx(level.alpha, abs=2e-3)

    def test_without_terminal_signal(self):
        """arXiv:2305.08891, Algorithm 1: the first entry stays, the last is 0."""
        plain, moved = create("sdes", "table"), create("sdes", "table[zero_terminal_snr=true]")
        t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        a, b = plain.alpha(t), moved.alpha(t)
        torch.testing.assert_close(b, (a - a[2]) * a[0] / (a[0] - a[2]))
        assert float(b[2]) == 0

    def test_a_file(self, tmp_path):
        betas = np.linspace(1e-3, 0.1, 50)
        np.savez(tmp_path / "table.npz", alphas_cumprod=np.cumprod(1 - betas))
        np.savez(tmp_path / "betas.npz", betas=betas)
        t = torch.linspace(0, 1, 50, dtype=torch.float64)
        for name in ("table.npz", "betas.npz"):
            sde = create("sdes", f"table[path='{tmp_path / name}']")
            np.testing.assert_allclose(sde.alpha(t).square().numpy(), np.cumprod(1 - betas), rtol=1e-12)

    def test_files_that_are_none(self, tmp_path):
        np.savez(tmp_path / "other.npz", x=np.zeros(3))
        np.savez(tmp_path / "rising.npz", betas=-np.ones(10))
        for name, words in (
            ("gone.npz", r"cannot read|no file"), ("other.npz", "neither betas nor alphas_cumprod"),
            ("rising.npz", "values of alphas_cumprod that fall"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=words):
                create("sdes", f"table[path='{tmp_path / name}']")


class TestLosses:
    X = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def test_flow_matching_is_the_error_of_the_velocity(self):
        """For rectified flow and a network of velocities, |u - (eps - x_0)|^2 of the same draws."""
        seen = []

        class Network(nn.Module):
            def forward(self, x, label):
                seen.append((x, label, torch.sin(x) * label.unsqueeze(1)))
                return seen[-1][2]

        sde = create("sdes", "rectified_flow")
        model = NetworkScore(Network(), sde, (3,), parameterisation="flow", label="t")
        found = create("losses", "flow_matching").per_sample(model, self.X, Draws(0, 0, 64))
        x, t, u = seen[0]
        z = (x - (1 - t.unsqueeze(1)) * self.X) / t.unsqueeze(1)
        torch.testing.assert_close(found, (u - (z - self.X)).square().mean(1), rtol=1e-8, atol=1e-8)

    def test_edm_is_the_weighted_error_of_the_denoised_state(self):
        sde, seen = create("sdes", "edm"), []

        class Network(nn.Module):
            def forward(self, x, label):
                seen.append((x, label.exp().pow(4)))
                return 0.5 * torch.tanh(x)

        model = NetworkScore(Network(), sde, (3,), parameterisation="denoised", label="log_ratio")
        found = create("losses", "edm").per_sample(model, self.X, Draws(0, 0, 64))
        x, s = seen[0]
        weight = (s**2 + 0.25) / (0.5 * s) ** 2
        expected = weight * (0.5 * torch.tanh(x) - self.X).square().mean(1)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)

    def test_edm_draws_a_log_normal_ratio(self):
        sde, seen = create("sdes", "edm"), []

        class Network(nn.Module):
            def forward(self, x, label):
                seen.append(4 * label)
                return x

        model = NetworkScore(Network(), sde, (1,), parameterisation="denoised", label="log_ratio")
        create("losses", "edm").per_sample(model, torch.zeros(20_000, 1, dtype=torch.float64), Draws(0, 0, 20_000))
        assert float(seen[0].mean()) == pytest.approx(-1.2, abs=4 * 1.2 / math.sqrt(20_000))
        assert float(seen[0].std()) == pytest.approx(1.2, rel=4 / math.sqrt(40_000))


def test_one_step_from_noise_is_the_mean(sde):
    x = sample(exact(sde), create("samplers", "pc[predictor=ddim,steps=1]"), 4, dtype=torch.float64).x
    torch.testing.assert_close(x, torch.full_like(x, MEAN))
    assert DATA.alpha == 1


@pytest.mark.parametrize("grid", ["uniform", "quadratic", "logsnr", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_grids_go_from_the_start_to_the_data(grid, steps, sde):
    times = create("grids", grid).times(sde, steps)
    assert len(times) == steps + 1
    assert float(times[0]) == 1
    assert float(times[-1]) == 0
    if steps > 1:
        assert float(times[-2]) == sde.t_min
    if grid == "logsnr" and steps > 2:  # as if it began where there is signal
        ends = sde.log_noise_ratio(torch.tensor([sde.t_signal, sde.t_min], dtype=torch.float64))
        spread = torch.linspace(*ends.tolist(), steps, dtype=torch.float64)
        torch.testing.assert_close(sde.log_noise_ratio(times[1:-1]), spread[1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [entry.row.name for entry in default_registry().entries("sdes")])
def test_a_part_of_a_process_knows_as_much_and_stays_a_part(name):
    sde, index = create("sdes", name), torch.tensor([2, 0])
    known = {what: torch.arange(6.0).reshape(3, 2) for what in sde.needs}
    part = sde.given(**known).until(0.5)
    for each in (part, part.given(**known), part.rows(torch.arange(3)), part.until(0.7).until(0.5)):
        assert each.t_max == 0.5
        assert not each.lacks()
    assert all(torch.equal(part.rows(index)._known[what], known[what][index]) for what in sde.needs)


@pytest.mark.parametrize("name", ["ouve", "sbve", "ir_sde"])
def test_sampling_from_events_keeps_the_observation(name):
    """Events of the law given y, noised to the middle, return to it: N(0.8 y, 0.2) for N(0, 1) seen with noise 0.5."""
    target, n = create("targets", "observed[of=gaussian[shape=[1]],noise=0.5]").to("cpu", torch.float64), 4000
    y = torch.full((n, 1), 2.0, dtype=torch.float64)
    x = 1.6 + math.sqrt(0.2) * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, latent = start_from(ExactScore(target, create("sdes", name).given(y=y)), x, 0.5)
    sampler = create("samplers", "pc[predictor=heun,grid=karras,steps=40]")
    found = sample(model, sampler, n, dtype=torch.float64, latent=latent).x
    assert float(found.mean()) == pytest.approx(1.6, abs=5 * math.sqrt(0.2 / n))
    assert float(found.var()) == pytest.approx(0.2, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("parameterisation", ["score", "noise", "denoised", "v", "flow", "edm"])
@pytest.mark.parametrize("name", ["ouve", "ir_sde"])
def test_a_network_that_knows_the_truth_is_the_truth_in_the_frame(name, parameterisation):
    """A module that gives what its parameterisation means of the exact law: its score is the exact one."""
    from scoresde_run.models.parameterisation import SIGMA_DATA

    target = create("targets", "observed[of=mixture2d,noise=0.5]").to("cpu", torch.float64)
    y = target.known(6, seed=0)["y"].double()
    sde = create("sdes", name).given(y=y)
    exact, frame = ExactScore(target, sde), sde.frame
    t, x = 0.4, torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level, c = sde.float_level(t), frame.enter(x, t)
    score = exact.framed().score(c, level)
    alpha, sigma = level.alpha, level.sigma
    clean, noise = (c + sigma**2 * score) / alpha, -sigma * score
    variance = sigma**2 + (alpha * SIGMA_DATA) ** 2
    skip = c * (SIGMA_DATA**2 * alpha / variance)
    meant = {
        "score": score, "noise": noise, "denoised": clean, "v": alpha * noise - sigma * clean, "flow": noise - clean,
        "edm": (clean - skip) * variance**0.5 / (sigma * SIGMA_DATA),
    }  # fmt: skip

    class Truth(torch.nn.Module):
        def forward(self, x, label):
            return meant[parameterisation]

    network = NetworkScore(Truth(), sde, (2,), parameterisation=parameterisation, label="time")
    torch.testing.assert_close(network.framed().score(c, level), score)
