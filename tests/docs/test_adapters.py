"""The adapters of docs/bring_your_model.md against the classes of their libraries, where these are installed."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from scoresde import create, sample
from scoresde_core import Level, Noise

PAGE = Path(__file__).parents[2] / "docs" / "bring_your_model.md"
BLOCKS = re.findall(r"^```python\n(# (?:more_)?adapters.py\n.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
ADAPTERS = {}
for block in BLOCKS:
    exec(block, ADAPTERS)
pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    """A network that depends on all that it is told."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, label, *_, **__):
        return torch.tanh(self.net(x) + 0.1 * label.reshape(-1, 1, 1, 1))


def test_each_is_short():
    functions = [node for block in BLOCKS for node in ast.parse(block).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions] == ["of_diffusers", "of_denoiser", "solve_azula", "solve_sbi"]
    assert all(node.end_lineno - node.lineno < 20 for node in functions)


def score_is_that_of(denoiser, model):
    for sigma in (0.02, 1.0, 30.0):
        with torch.no_grad():
            truth = (denoiser(X, torch.full((5,), sigma)) - X) / sigma**2
        found = model.score(X, Level(sigma / 80.0, 1.0, sigma))
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4 * float(truth.abs().max()))


def test_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    scheduler = diffusers.DDPMScheduler()
    model = ADAPTERS["of_diffusers"](unet, scheduler)
    for k in (0, 300, 999):
        t = torch.tensor(k / 999, dtype=torch.float64)
        sigma = float((1 - scheduler.alphas_cumprod.double()[k]).sqrt())
        with torch.no_grad():
            truth = -unet(X, k).sample / sigma
        torch.testing.assert_close(model.score(X, model.sde.level(t)), truth, rtol=1e-4, atol=1e-4)
    assert sample(model, create("samplers", "pc[predictor=dpmpp_2m,steps=3]"), n=2).x.shape == (2, 3, 8, 8)


def test_k_diffusion():
    """Also its Heun sampler on its grid: the same numbers."""
    k_diffusion = pytest.importorskip("k_diffusion")
    denoiser = k_diffusion.layers.Denoiser(Inner(), sigma_data=0.5)
    model = ADAPTERS["of_denoiser"](denoiser, (3, 8, 8))
    score_is_that_of(denoiser, model)
    start = 80.0 * X
    sigmas = k_diffusion.sampling.get_sigmas_karras(6, 0.002, 80.0)
    with torch.no_grad():
        theirs = k_diffusion.sampling.sample_heun(denoiser, start, sigmas, disable=True)
        sampler = create("samplers", "pc[predictor=heun,grid=karras,steps=6]")
        ours = sampler.run(start, model, Noise(0, (3, 8, 8), 5))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_deepinv():
    precond = pytest.importorskip("deepinv.models.precond")
    denoiser = precond.EDMPrecond(Inner())
    score_is_that_of(denoiser, ADAPTERS["of_denoiser"](denoiser, (3, 8, 8)))


def test_physicsnemo():
    preconditioners = pytest.importorskip("physicsnemo.diffusion.preconditioners")
    denoiser = preconditioners.EDMPreconditioner(Inner())
    score_is_that_of(denoiser, ADAPTERS["of_denoiser"](denoiser, (3, 8, 8)))


@pytest.mark.parametrize("schedule", ["VPSchedule", "CosineSchedule", "RectifiedSchedule"])
def test_azula(schedule):
    """Its exact denoiser of N(1, 1/4): the flow carries x to 1 + (x - alpha) / 2 std(x_1)."""
    noise, denoise = (pytest.importorskip(f"azula.{name}") for name in ("noise", "denoise"))
    covariance = pytest.importorskip("azula.linalg.covariance").IsotropicCovariance(torch.tensor(0.25))
    law = getattr(noise, schedule)()
    denoiser = denoise.GaussianDenoiser(torch.ones(2), covariance, law)
    single = lambda x, t: denoise.DiracPosterior(torch.stack([denoiser(a, b).mean for a, b in zip(x, t, strict=True)]))  # noqa: E731
    single.schedule = law
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(2))
    alpha, sigma = (float(value) for value in law(torch.tensor(1.0)))
    truth = 1 + 0.5 * (x - alpha) / (0.25 * alpha**2 + sigma**2) ** 0.5
    found = ADAPTERS["solve_azula"](single, x, steps=60)
    torch.testing.assert_close(found, truth, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", ["VPScoreEstimator", "SubVPScoreEstimator"])
def test_sbi(kind):
    """With a network of zeros its estimator is that of N(mean_0, std_0^2), whose flow is known."""
    estimators = pytest.importorskip("sbi.neural_nets.estimators.score_estimator")
    shape = torch.Size([2])
    net = lambda x, condition, time: torch.zeros_like(x)  # noqa: E731
    estimator = getattr(estimators, kind)(net, shape, shape, mean_0=1.0, std_0=0.5)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(2))
    end = torch.tensor([1.0])
    alpha, sigma = float(estimator.mean_t_fn(end)), float(estimator.std_fn(end))
    truth = 1 + 0.5 * (x - alpha) / (0.25 * alpha**2 + sigma**2) ** 0.5
    found = ADAPTERS["solve_sbi"](estimator, torch.zeros(1, 2), x, steps=60)
    torch.testing.assert_close(found, truth, rtol=0, atol=5e-3)
