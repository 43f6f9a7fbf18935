"""Losses: each is minimised by the exact score, and draws its times from its stated distribution."""

import math

import attrs
import numpy as np
import pytest
import torch
from torch import nn
from scoresde import Draws, NetworkScore, create, load_registry
from scoresde_conformance.suite import run
from scoresde_core.errors import UsageError
from scoresde_core.loss import Loss, denoising_error
from scoresde_core.manifest import Row
from scoresde_core.plugins import Status
from scoresde_core.registry import Registry
from scoresde_core.score import ScoreModel, level_of
from scoresde_core.sde import SDE
from scoresde_plugins.score_flow.importance import importance_times, relative_weight, total_weight
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_run.models.model import plan_loss, plan_model

MEAN, STD = 0.7, 0.5
SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(), "linear_ve": LinearVESDE()}


@attrs.frozen
class Cosine(SDE):
    """A third party's SDE: alpha and sigma, and no closed form of anything else."""

    def alpha(self, t):
        return torch.cos(0.495 * math.pi * t)

    def sigma(self, t):
        return torch.sin(0.495 * math.pi * t)


class Affine(ScoreModel):
    """The exact score of N(MEAN, STD^2 I) plus scale_error x + shift_error, in units of the noise level."""

    def __init__(self, scale_error=0.0, shift_error=0.0, sde=None):
        self.sde = sde
        self.errors = torch.tensor([scale_error, shift_error], dtype=torch.float64, requires_grad=True)

    def evaluate(self, x, level):
        spread = STD**2 * level.alpha**2 + level.sigma**2
        scale, shift = self.errors
        return -(x - MEAN * level.alpha) / spread + (scale * x / spread.sqrt() + shift) / level.sigma


CASES = [
    ("dsm", "vp"),
    ("dsm", "subvp"),
    ("dsm", "ve"),
    ("dsm", "cosine"),
    ("dsm[weighting=likelihood,t_min=0.01]", "vp"),
    ("dsm[weighting=likelihood,reduction=half_sum,stratified=true]", "ve"),
    ("dsm[weighting=likelihood,t_min=0.05]", "cosine"),
    ("importance", "vp"),
    ("importance[t_min=0.01,reduction=half_sum]", "subvp"),
    ("importance[stratified=true]", "ve"),
    ("importance[t_min=0.001]", "linear_ve"),
    ("importance[unbiased=true]", "cosine"),
    ("smld", "ve"),
    ("smld[scales=10,stratified=true]", "ve"),
    ("ddpm", "vp"),
    ("ddpm[scales=100,reduction=half_sum]", "vp"),
]


@pytest.mark.parametrize(("loss", "sde"), CASES, ids=[f"{loss}-{sde}" for loss, sde in CASES])
def test_the_exact_score_is_the_minimiser(loss, sde):
    """At the exact score the expected gradient is zero, and the loss is larger on either side."""
    sde = Cosine() if sde == "cosine" else SDES[sde]
    loss = create("losses", loss)
    n, rows = 2048, 12
    assert loss.skip(Affine(sde=sde)) is None
    gradients, raised = [], {errors: [] for errors in ((0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2))}
    for step in range(rows):
        noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        x, draws = MEAN + STD * noise, Draws(0, step, n)
        model = Affine(sde=sde)
        value = loss.per_sample(model, x, draws)
        assert value.shape == (n,)
        gradients.append(torch.autograd.grad(value.mean(), model.errors)[0])
        for errors, found in raised.items():
            found.append((loss.per_sample(Affine(*errors, sde), x, draws).mean() - value.mean()).detach())
    gradients = torch.stack(gradients)
    off = gradients.mean(0) / (gradients.std(0) / math.sqrt(rows))
    assert off.abs().max() < 4, f"the gradient at the exact score is {off.tolist()} standard errors from zero"
    for errors, found in raised.items():
        found = torch.stack(found)
        assert found.mean() > 4 * found.std() / math.sqrt(rows), f"errors {errors} do not raise the loss"


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "linear_ve"])
def test_the_minimum_is_that_of_theory(name):
    """E|e|^2 at the exact score is 1 - sigma^2 / (STD^2 alpha^2 + sigma^2) a dimension, here averaged by quadrature."""
    sde, t_min = SDES[name], 1e-3
    t = (t_min + (1 - t_min) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000).numpy()
    alpha, sigma = (f(torch.from_numpy(t)).numpy() for f in (sde.alpha, sde.sigma))
    residual = 1 - sigma**2 / (STD**2 * alpha**2 + sigma**2)
    rate = (sde.diffusion(torch.from_numpy(t)).numpy() / sigma) ** 2
    z = total_weight(sde, t_min)
    expected = {
        "dsm[t_min=0.001]": residual.mean(),
        "dsm[t_min=0.001,stratified=true]": residual.mean(),
        "dsm[t_min=0.001,weighting=likelihood]": (residual * rate).mean(),
        "importance[t_min=0.001]": (residual * rate).mean() * (1 - t_min) / z,
        "importance[t_min=0.001,stratified=true,unbiased=true]": (residual * rate).mean(),
    }
    for text, value in expected.items():
        loss, found, halves = create("losses", text), [], []
        for step in range(10):
            x = MEAN + STD * torch.randn(4000, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            found.append(loss.per_sample(Affine(sde=sde), x, Draws(1, step, 4000)).mean())
            half = attrs.evolve(loss, reduction="half_sum").per_sample(Affine(sde=sde), x, Draws(1, step, 4000))
            halves.append(half.mean())
        found = torch.stack(found).detach()
        assert abs(found.mean() - value) < 4 * found.std() / math.sqrt(10) + 1e-4 * value, text
        torch.testing.assert_close(torch.stack(halves).detach(), found * 4 / 2)


@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_importance_times_are_those_of_the_published_code(shared, name):
    with np.load(shared / "golden" / "score_flow.npz") as golden:
        t_min, u = float(golden[f"{name}/eps"]), golden[f"{name}/quantile_fraction"].astype(np.float64)
        z, times = float(golden[f"{name}/Z"]), golden[f"{name}/time"]
    assert total_weight(SDES[name], t_min) == pytest.approx(z, rel=1e-6)
    found = importance_times(SDES[name], torch.from_numpy(u), t_min).numpy()
    # The published series near t = 0 is good to a part in 5000, its bisection in float32 to 1e-5.
    near = times < 0.005
    np.testing.assert_allclose(found[near], times[near], rtol=1e-3)
    np.testing.assert_allclose(found[~near], times[~near], rtol=2e-5)


@pytest.mark.parametrize(("name", "t_min", "z"), [("vp", 1e-5, 23.864), ("vp", 5e-5, 22.251), ("subvp", 1e-2, 22.484)])
def test_the_normalisation_is_that_of_the_published_code(name, t_min, z):
    """By its own functions, at the smallest times of its configurations."""
    assert total_weight(SDES[name], t_min) == pytest.approx(z, abs=6e-4)


@pytest.mark.parametrize("t_min", [1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("sde", [*SDES.values(), Cosine()], ids=[*SDES, "cosine"])
def test_importance_times_against_quadrature(sde, t_min):
    """The weight up to each time, by quadrature, is the requested share."""
    u = torch.tensor([0.0, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.99, 1.0], dtype=torch.float64)
    times = importance_times(sde, u, t_min)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(400))

    def weight_up_to(t):
        # In log t the integrand t g^2 / sigma^2 is smooth over all decades.
        half = 0.5 * (t.log() - math.log(t_min))
        at = (math.log(t_min) + half * (nodes + 1)).exp()
        return float((weights * at * (sde.diffusion(at) / sde.sigma(at)).square()).sum() * half)

    z = weight_up_to(torch.ones((), dtype=torch.float64))
    assert total_weight(sde, t_min) == pytest.approx(z, rel=1e-7)
    found = [weight_up_to(t) / z for t in times]
    np.testing.assert_allclose(found, u.numpy(), rtol=1e-7, atol=1e-9)


def test_ve_has_the_closed_forms():
    u = torch.linspace(0, 1, 33, dtype=torch.float64)
    torch.testing.assert_close(importance_times(VESDE(), u, 1e-5), 1e-5 + u * (1 - 1e-5), rtol=1e-12, atol=0)
    torch.testing.assert_close(importance_times(LinearVESDE(), u, 1e-3), 1e-3 ** (1 - u), rtol=1e-12, atol=0)


def test_importance_sampling_has_a_tenth_of_the_variance():
    x = torch.full((4096, 8), MEAN, dtype=torch.float64)

    def variance(text):
        model = Affine(0.3, 0.3, VPSDE())
        return create("losses", text).per_sample(model, x, Draws(0, 0, len(x))).var()

    assert variance("importance[unbiased=true]") < 0.1 * variance("dsm[weighting=likelihood]")


def test_stratified_times_take_one_from_each_share():
    u = Draws(3, 7, 64).uniform(stratified=True)
    assert (u * 64).floor().tolist() == list(range(64))
    assert len({round(float(v), 6) for v in u * 64 % 1}) == 64


@pytest.mark.parametrize("stratified", [False, True], ids=["independent", "stratified"])
@pytest.mark.parametrize("loss", ["dsm", "importance", "smld"])
def test_the_split_of_a_batch_changes_nothing(loss, stratified):
    loss, model = create("losses", f"{loss}[stratified={str(stratified).lower()}]"), Affine(sde=VESDE())
    x = torch.rand(12, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    whole = loss.per_sample(model, x, Draws(5, 9, 12))
    parts = [
        loss.per_sample(model, x[a:b], Draws(5, 9, b - a, start=a, total=12)) for a, b in ((0, 4), (4, 5), (5, 12))
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, loss.per_sample(model, x, Draws(5, 10, 12)))
    assert not torch.equal(whole, loss.per_sample(model, x, Draws(6, 9, 12)))


class Recorder(nn.Module):
    """Answers with zero and remembers its inputs."""

    def forward(self, x, label):
        self.x, self.label = x, label
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("loss", "sde", "label", "index_of"),
    [
        ("ddpm", VPSDE(), "index", lambda label: label.round().long()),
        ("smld", VESDE(), "reverse_index", lambda label: 999 - label.long()),
    ],
    ids=["ddpm", "smld"],
)
def test_discrete_losses_perturb_and_label_by_the_published_tables(loss, sde, label, index_of):
    """Every entry i comes with its own x and label, in float32 too."""
    if loss == "ddpm":
        signal = np.cumprod(1 - np.linspace(0.1 / 1000, 20 / 1000, 1000))
        alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    else:
        alpha, sigma = np.ones(1000), np.exp(np.linspace(math.log(0.01), math.log(50), 1000))
    network = Recorder()
    model = NetworkScore(network, sde, parameterisation="noise", label=label, scales=1000)
    x, draws = torch.ones(1000, 6), Draws(0, 0, 1000)
    stratified = create("losses", f"{loss}[stratified=true]")
    value = stratified.per_sample(model, x, draws)
    index = index_of(network.label)
    assert index.tolist() == list(range(1000))
    assert network.x.dtype == value.dtype == torch.float32
    z = draws.normal(x).double()
    expected = torch.from_numpy(alpha)[:, None] + torch.from_numpy(sigma)[:, None] * z
    torch.testing.assert_close(network.x.double(), expected, rtol=1e-5, atol=1e-5)
    scale = 1 / 6 if loss == "ddpm" else 0.5
    torch.testing.assert_close(value.double(), scale * z.square().sum(1), rtol=1e-5, atol=1e-6)


def test_times_reach_the_label_in_full_and_the_state_keeps_its_dtype():
    network = Recorder()
    model = NetworkScore(network, VPSDE(), label="time", parameterisation="noise")
    loss = create("losses", "dsm[stratified=true]")
    loss.per_sample(model, torch.zeros(256, 2), Draws(0, 0, 256))
    assert network.x.dtype == network.label.dtype == torch.float32
    u = Draws(0, 0, 256).uniform(stratified=True)
    torch.testing.assert_close(network.label.double(), (1e-5 + u * (1 - 1e-5)) * 999, rtol=1e-6, atol=0)


def test_the_error_is_that_of_the_score():
    """|sigma s + z|^2 through a noise network equals the same through its score."""
    sde, x = VPSDE(), torch.rand(8, 3, 2, dtype=torch.float64)
    z, level = torch.randn(8, 3, 2, dtype=torch.float64), level_of(sde, torch.linspace(0.1, 1, 8).double(), x)
    model = Affine(0.1, 0.2)
    perturbed = level.alpha * x + level.sigma * z
    direct = (level.sigma * model.evaluate(perturbed, level) + z).square().flatten(1)
    torch.testing.assert_close(denoising_error(model, level, x, z, "mean"), direct.mean(1))
    torch.testing.assert_close(denoising_error(model, level, x, z, "half_sum"), 0.5 * direct.sum(1))


def network(label, scales=1000):
    return NetworkScore(Recorder(), VPSDE(), parameterisation="score", label=label, scales=scales)


@attrs.frozen
class Dip(SDE):
    """Noise that falls before it grows."""

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return 0.1 + (t - 0.5).square()


@pytest.mark.parametrize(
    ("loss", "model", "reason"),
    [
        ("dsm", network("index"), "use the loss ddpm"),
        ("importance", network("reverse_index"), "1000 noise scales"),
        ("importance", Affine(sde=Dip()), "to grow from t_min = 1e-05"),
        ("smld", Affine(sde=VPSDE()), "alpha = 1"),
        ("ddpm", Affine(sde=VESDE()), "variance-preserving"),
        ("ddpm", Affine(sde=SubVPSDE()), "use dsm"),
        ("smld", Affine(sde=LinearVESDE()), "none at t = 0"),
        ("ddpm", network("index", 500), "set scales=500"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_cannot_be_trained_is_said_before(loss, model, reason):
    found = create("losses", loss).skip(model)
    assert found is not None
    assert reason in found


def test_rows_outside_the_batch_are_refused():
    with pytest.raises(ValueError, match="rows 4 to 9 do not lie in a batch of 8"):
        Draws(0, 0, 5, start=4, total=8)


REGISTRY = load_registry()


@pytest.mark.parametrize("preset", [entry.row.name for entry in REGISTRY.entries("presets")])
def test_every_preset_has_a_loss_that_trains_it(preset):
    config = REGISTRY.create("presets", preset)
    plan = plan_model(config, REGISTRY, outputs=None)
    loss = plan_loss(plan, REGISTRY)
    name = config.training.loss.name
    expected = {"dsm": "DenoisingScoreMatchingLoss", "smld": "SMLDLoss", "ddpm": "DDPMLoss"}
    expected["classification"] = "ClassificationLoss"
    assert type(loss).__name__ == expected[name]
    assert name in ("dsm", "classification") or loss.scales == plan.network.scales


def test_the_likelihood_losses_keep_the_smallest_time_of_the_preset():
    config = REGISTRY.create("presets", "scoreflow_subvp_cifar10_ddpmpp_continuous")

    def loss(*changes):
        return plan_loss(plan_model(config.override(changes), REGISTRY), REGISTRY)

    assert loss().weighting == "sigma"
    assert loss("training.loss.weighting=likelihood").weighting == "likelihood"
    importance = loss("training.loss.name=importance")
    assert type(importance).__name__ == "ImportanceLoss"
    assert importance.t_min == loss().t_min == 1e-2


def test_a_discrete_loss_takes_no_likelihood_weighting():
    config = REGISTRY.create("presets", "vp_ddpm_cifar10").override(["training.loss.weighting=likelihood"])
    with pytest.raises(UsageError, match="loss 'ddpm' has no parameter 'weighting'"):
        plan_loss(plan_model(config, REGISTRY), REGISTRY)


def test_a_discrete_network_is_refused_continuous_times():
    config = REGISTRY.create("presets", "vp_ddpm_cifar10").override(["training.loss=dsm"])
    with pytest.raises(UsageError, match="use the loss ddpm"):
        plan_loss(plan_model(config, REGISTRY), REGISTRY)


@attrs.frozen
class OffCentre(Loss):
    """Compares with 10 % more noise than was added."""

    def per_sample(self, model, x, draws):
        sde = model.sde
        level, z = level_of(sde, 0.1 + 0.9 * draws.uniform(), x), draws.normal(x)
        return (1.1 * z - model.noise(level.alpha * x + level.sigma * z, level)).square().flatten(1).mean(1)


@attrs.frozen
class OneNumber(Loss):
    """Forgets that losses are per sample."""

    def per_sample(self, model, x, draws):
        sde = model.sde
        level = level_of(sde, 0.1 + 0.9 * draws.uniform(), x)
        return denoising_error(model, level, x, draws.normal(x), "mean").mean()


@attrs.frozen
class OwnChance(Loss):
    """Draws its noise from torch's global generator."""

    def per_sample(self, model, x, draws):
        sde = model.sde
        level = level_of(sde, 0.1 + 0.9 * draws.uniform(), x)
        return denoising_error(model, level, x, torch.randn_like(x), "mean")


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (OffCentre, "the_truth_is_the_minimiser", "the slope of per_sample at the exact score is"),
        (OneNumber, "gives_one_number_an_event", "expected ((5,), torch.float32)"),
        (OwnChance, "draws_are_its_only_chance", "the same draws give another loss"),
    ],
    ids=["wrong minimum", "batch mean", "own noise"],
)
def test_the_conformance_suite_sees_a_wrong_loss(cls, check, words):
    row = Row("losses", "subject", cls, "under test")
    results = run(Registry([Status("wrong", "1.0", "ok", rows=[row])], None), "losses", "subject")
    failed = {result.check: result.reason for result in results if result.state == "failed"}
    assert check in failed
    assert words in failed[check]


def test_the_loss_of_edm_has_its_weight_and_times_up_to_those_with_signal():
    """At one noise ratio s the weight of the denoising error is (s^2 + d^2) / d^2."""
    x, model = torch.randn(50, 3, dtype=torch.float64), Affine(0.1, sde=SDES["vp"])
    first, second = (
        create("losses", f"edm[mean=-0.3,std=1e-9,data={d}]").per_sample(model, x, Draws(0, 0, 50)).detach()
        for d in (0.5, 2.0)
    )
    square = math.exp(-0.6)
    expected = (square + 0.25) / 0.25 / ((square + 4) / 4)
    torch.testing.assert_close(first / second, torch.full_like(first, expected), rtol=1e-5, atol=0)
    far = create("losses", "edm[mean=40]").per_sample(
        Affine(0.1, sde=create("sdes", "rectified_flow")), x, Draws(0, 0, 50)
    )
    assert bool(far.isfinite().all())


def test_entries_share_the_weight_of_importance_by_their_own_rates():
    sde, t, x = create("sdes", "per_channel"), torch.tensor([0.1, 0.7], dtype=torch.float64), torch.zeros(2, 2, 4, 4)
    found = relative_weight(sde, t, x)
    rate = (sde.diffusion(t) / sde.sigma(t)).square().reshape(2, 2)
    expected = rate / rate.mean(1, keepdim=True)
    torch.testing.assert_close(found.expand(2, 2, 4, 4)[:, :, 1, 2], expected, rtol=1e-12, atol=0)
    assert not torch.allclose(expected, torch.ones_like(expected), rtol=0.01)
