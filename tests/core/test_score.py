"""Parameterisations and label rules (features.md, table 2a) against the exact score of Gaussian data."""

import math

import pytest
import torch
from torch import nn
from scoresde_core.errors import UsageError
from scoresde_core.score import ExactScore, level_of
from scoresde_core.sde import Level
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_run.models.network_score import NetworkScore

MEAN, VARIANCE = 0.3, 0.25


class Gaussian:
    """N(0.3, 0.25 I)."""

    def score(self, x, level):
        return -(x - MEAN * level.alpha) / (VARIANCE * level.alpha**2 + level.sigma**2)


class Oracle(nn.Module):
    """A network that returns the true quantity and records its labels."""

    def __init__(self, kind, level):
        super().__init__()
        self.kind, self.level, self.labels = kind, level, None

    def forward(self, x, label):
        self.labels = label
        score = Gaussian().score(x, self.level)
        noise = -self.level.sigma * score
        denoised = (x - self.level.sigma * noise) / self.level.alpha
        return {
            "score": score,
            "noise": noise,
            "denoised": denoised,
            "v": self.level.alpha * noise - self.level.sigma * denoised,
        }[self.kind]


@pytest.fixture
def x():
    return torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sde", [VESDE(), VPSDE(), SubVPSDE()], ids=["ve", "vp", "subvp"])
@pytest.mark.parametrize("kind", ["score", "noise", "denoised", "v"])
def test_every_parameterisation_gives_the_same_score(sde, kind, x):
    level = Level(0.4, *(float(f(torch.tensor(0.4, dtype=torch.float64))) for f in (sde.alpha, sde.sigma)))
    model = NetworkScore(Oracle(kind, level), sde, parameterisation=kind, label="t")
    exact = ExactScore(Gaussian())
    for view in ("score", "noise", "denoised"):
        torch.testing.assert_close(getattr(model, view)(x, level), getattr(exact, view)(x, level))
    assert model.calls == exact.calls == 3


@pytest.mark.parametrize("answer", [lambda x, label: x[:, :1], lambda x, label: label], ids=["one channel", "a number"])
def test_an_answer_that_would_broadcast_is_refused(answer, x):
    """(6, 1, 4, 5) and (6,) would broadcast against (6, 3, 4, 5), so a wrong network would sample silently."""
    network = nn.Module()
    network.forward = answer
    with pytest.raises(ValueError, match=r"the network gives \(6,.*\) for a state \(6, 3, 4, 5\)"):
        NetworkScore(network, VPSDE(), parameterisation="score", label="t").score(x, Level(0.4, 0.8, 0.6))


@pytest.mark.parametrize("slip", [{"parameterisation": "eps"}, {"label": "tme"}], ids=lambda slip: next(iter(slip)))
def test_an_unknown_parameterisation_or_label(slip):
    ((what, name),) = slip.items()
    with pytest.raises(UsageError, match=f"unknown {what} '{name}'. (Known|Did you mean)"):
        NetworkScore(nn.Identity(), VPSDE(), **{"parameterisation": "score", "label": "t"} | slip)


def test_the_denoised_view_is_the_posterior_mean(x):
    level = Level(0.5, 0.8, 0.6)
    gain = VARIANCE * 0.8 / (VARIANCE * 0.64 + 0.36)
    torch.testing.assert_close(ExactScore(Gaussian()).denoised(x, level), MEAN + gain * (x - 0.8 * MEAN))


@pytest.mark.parametrize(
    ("sde", "label", "t", "expected"),
    [
        (VPSDE(), "time", 0.5, 499.5),
        (VPSDE(), "index", 1.0, 999.0),
        (VESDE(), "sigma", 1.0, 50.0),
        (VESDE(), "reverse_index", 1.0, 0.0),
        (VESDE(), "reverse_index", 0.25, 749.0),
        (SubVPSDE(), "t", 0.25, 0.25),
    ],
    ids=lambda v: str(v) if isinstance(v, str | float) else type(v).__name__,
)
def test_label_rules(sde, label, t, expected, x):
    level = Level(t, 1.0, float(sde.sigma(torch.tensor(t, dtype=torch.float64))))
    network = Oracle("score", level)
    NetworkScore(network, sde, parameterisation="score", label=label).score(x, level)
    assert network.labels.shape == (6,)
    assert network.labels.tolist() == pytest.approx([expected] * 6)


def test_discrete_vp_divides_by_the_table_not_by_the_continuous_noise(x):
    """The published discrete model: score = -net / sqrt(1 - alpha_bar_i), i = floor(t (N - 1))."""
    t = 0.001
    level = Level(t, 1.0, 0.02)
    network = Oracle("noise", level)
    score = NetworkScore(network, VPSDE(), parameterisation="noise", label="index").score(x, level)
    std = math.sqrt(1 - (1 - 0.1 / 1000))  # entry 0 holds beta_0 alone
    torch.testing.assert_close(score, network(x, None) / -std)


def test_one_time_per_row(x):
    """Training times: a batch with one level per row equals its rows one by one."""
    sde, t = VPSDE(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    together = ExactScore(Gaussian()).score(x, level_of(sde, t, x))
    apart = [ExactScore(Gaussian()).score(x[i : i + 1], level_of(sde, t[i : i + 1], x[i : i + 1])) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_discrete_labels_at_one_time_per_row(x):
    sde, t = VPSDE(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    level = level_of(sde, t, x)
    network = Oracle("noise", level)
    model = NetworkScore(network, sde, parameterisation="noise", label="index", scales=100)
    table = sde.discrete_level(t, 100).sigma.reshape(6, 1, 1, 1)
    torch.testing.assert_close(model.score(x, level), network(x, None) / -table)
    torch.testing.assert_close(network.labels, t * 99) if network.labels is not None else None
