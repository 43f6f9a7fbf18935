"""Samplers of other libraries: each does what its library's own loop does around the same score."""

import itertools
import math

import pytest
import torch
from scoresde_core import ExactScore, Noise, create, sample, skip
from scoresde_core.registry import default_registry
from scoresde_plugins.foreign.azula import AzulaSampler
from scoresde_plugins.foreign.diffusers import DiffusersSampler
from scoresde_plugins.foreign.k_diffusion import KDiffusionSampler
from scoresde_plugins.foreign.library import betas_of, keyed
from scoresde_run.results.fingerprint import Fingerprint

pytestmark = pytest.mark.filterwarnings("ignore")
TARGET = create("targets", "gaussian[std=0.5]")


def drawn(sampler, sde, n=64, target=TARGET):
    return sample(ExactScore(target, create("sdes", sde)), sampler, n=n, seed=3)


def latent(shape=(64, 2)):
    return Noise(3, shape[1:], shape[0]).draw("prior", "prior")


class TestDiffusers:
    @pytest.fixture(autouse=True)
    def library(self):
        return pytest.importorskip("diffusers")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("DDIM", {"clip_sample": False}),
            ("DPMSolverMultistep", {}),
            ("HeunDiscrete", {"timestep_spacing": "leading"}),
        ],
    )
    def test_it_is_the_library_s_own_loop(self, library, name, options):
        """Its published betas, and the noise of N(0, 1/4) in closed form: eps = x sigma / (1/4 abar + 1 - abar)."""
        scheduler = getattr(library, f"{name}Scheduler")(beta_start=1e-4, beta_end=0.02, **options)
        scheduler.set_timesteps(12)
        products = scheduler.alphas_cumprod.double()
        x = latent() * float(scheduler.init_noise_sigma)
        for t in scheduler.timesteps:
            abar = float(products[int(t)])
            asked = scheduler.scale_model_input(x, t)
            noise = asked * math.sqrt(1 - abar) / (0.25 * abar + 1 - abar)
            x = scheduler.step(noise, t, x).prev_sample
        found = drawn(DiffusersSampler(scheduler=name, options=options, steps=12), "table")
        torch.testing.assert_close(found.x, x, rtol=0, atol=1e-4)
        assert found.nfe == len(scheduler.timesteps)

    def test_betas_are_those_of_the_table(self, library):
        shipped = library.DDPMScheduler().betas.double()
        torch.testing.assert_close(betas_of(create("sdes", "table")), shipped, rtol=1e-6, atol=0)
        vp = betas_of(create("sdes", "vp"))
        assert 0 < float(vp[0]) < float(vp[-1]) < 0.03

    def test_a_flow_that_renoises_has_another_law(self):
        """stochastic_sampling renoises E[x_0 | x]: std 0.35, whatever the steps; the deterministic one has 0.5."""
        laws = {}
        for stochastic in (False, True):
            how = DiffusersSampler(
                scheduler="FlowMatchEulerDiscrete", options={"stochastic_sampling": stochastic}, steps=100
            )
            laws[stochastic] = float(drawn(how, "rectified_flow", 4000).x.std())
        assert laws[False] == pytest.approx(0.5, abs=0.015)
        assert laws[True] == pytest.approx(0.5 / math.sqrt(2), abs=0.02)

    def test_edm(self):
        found = drawn(DiffusersSampler(scheduler="EDMDPMSolverMultistep", steps=40), "edm", 4000)
        assert float(found.x.std()) == pytest.approx(0.5, abs=0.015)
        assert found.nfe == 40

    @pytest.mark.parametrize(
        ("how", "sde", "words"),
        [
            ({"scheduler": "Foo"}, "vp", "has no such scheduler of samples"),
            ({"scheduler": "DDIMInverse"}, "vp", "has no such scheduler of samples"),
            ({"scheduler": "DDIM"}, "edm", "it is not for EDMSDE: take table or vp, rectified_flow, or edm"),
            ({"scheduler": "FlowMatchEulerDiscrete"}, "vp", "it is not for VPSDE"),
            ({"scheduler": "DDIM"}, "trigflow", "it is not for TrigFlowSDE"),
            ({"scheduler": "DDIM", "options": {"foo": 1}}, "vp", "unexpected keyword argument 'foo'"),
        ],
    )
    def test_what_it_cannot_do_is_one_line(self, how, sde, words):
        reason = skip(DiffusersSampler(**how), create("sdes", sde), (2,))
        assert words in reason
        assert "\n" not in reason

    def test_its_version_and_claim_are_in_the_row(self, library):
        about = Fingerprint(default_registry()).describe(DiffusersSampler(scheduler="DEISMultistep"))
        assert (about["version"], about["claims"], about["evaluations"]) == (library.__version__, 2, 1)
        assert [DiffusersSampler(scheduler=name).evaluations for name in ("HeunDiscrete", "PNDM", "LCM")] == [
            2,
            None,
            None,
        ]


def test_k_diffusion_is_our_heun():
    """On the process of EDM, whose grid is the library's."""
    pytest.importorskip("k_diffusion.sampling")
    ours = drawn(create("samplers", "pc[predictor=heun,grid=karras,steps=9]"), "edm")
    theirs = drawn(KDiffusionSampler(function="heun", steps=9), "edm")
    assert theirs.nfe == ours.nfe
    torch.testing.assert_close(theirs.x, ours.x, rtol=0, atol=1e-3)
    assert "has no attribute 'sample_foo'" in skip(KDiffusionSampler(function="foo"), create("sdes", "edm"), (2,))
    assert "unexpected keyword argument 'foo'" in skip(
        KDiffusionSampler(function="heun", options={"foo": 1}), create("sdes", "edm"), (2,)
    )
    assert "alpha, which is 0" in skip(KDiffusionSampler(function="heun"), create("sdes", "rectified_flow"), (2,))


def test_azula_is_our_ddim():
    """On its uniform grid, from the end to t_min."""
    pytest.importorskip("azula")
    sde = create("sdes", "vp")
    x, t = latent(), torch.linspace(1.0, sde.t_min, 8, dtype=torch.float64)
    for now, then in itertools.pairwise(t):
        a, s, b, r = (float(value) for value in (sde.alpha(now), sde.sigma(now), sde.alpha(then), sde.sigma(then)))
        mean = x * 0.25 * a / (0.25 * a**2 + s**2)
        x = b * mean + r * (x - a * mean) / s
    theirs = drawn(AzulaSampler(sampler="DDIM", steps=7), "vp")
    torch.testing.assert_close(theirs.x, x, rtol=0, atol=1e-4)
    assert "has no attribute 'FooSampler'" in skip(AzulaSampler(sampler="Foo"), sde, (2,))


def test_noise_is_keyed_but_for_draws_with_their_own_generator():
    noise, first = Noise(0, (2,), 4), Noise(0, (2,), 4).at("foreign", "noise")
    with keyed(noise):
        x = torch.randn_like(torch.zeros(4, 2))
        y = torch.randn((4, 2))
        z = torch.randn(4, 2, dtype=torch.float64)
        own = torch.randn((4, 2), generator=torch.Generator().manual_seed(5))
        filled = torch.empty(4, 2, dtype=torch.float64).normal_(generator=None)
        spread = torch.zeros(4, 2).normal_(5.0, 1e-3)
        other = torch.randn(3)
    assert torch.equal(x, first())
    assert torch.equal(y, first())
    assert torch.equal(z, first().double())
    assert torch.equal(filled, first().double())
    assert torch.allclose(spread, torch.full((4, 2), 5.0), atol=0.1)  # of another law, and left to the library
    assert torch.equal(own, torch.randn((4, 2), generator=torch.Generator().manual_seed(5)))
    with keyed(noise):
        torch.zeros(4, 2).normal_(5.0, 1e-3)
        assert torch.equal(torch.randn(3), other)  # seeded by the noise's key


def test_claims():
    assert DiffusersSampler(scheduler="DPMSolverMultistep").claims == 2
    assert DiffusersSampler(scheduler="DPMSolverMultistep", options={"solver_order": 3}).claims == 3
    assert AzulaSampler(sampler="zAB", options={"order": 3}).claims == 3
    assert DiffusersSampler(scheduler="LCM").claims is None
