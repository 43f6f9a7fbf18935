"""Whole runs of the papers' samplers, against loops written again from their formulas, with the same noise.

``Published`` is the sampling of score_sde_pytorch (arXiv:2011.13456): times linspace(1, eps, N), at each of them first
the corrector, then the predictor; tables read at floor(t (N - 1)); everything else at t itself, with steps of 1/N. The
other loops are those of NCSN (arXiv:1907.05600), NCSNv2 (arXiv:2006.09011) and DDPM (arXiv:2006.11239).
DDIM, PNDM and the fast methods are in ``test_published_fast.py``.
"""

import math
from itertools import pairwise

import pytest
import torch
from scoresde_core import ExactScore, create
from scoresde_core.errors import UsageError
from scoresde_core.sampler import sample, skip
from scoresde_core.score import ScoreModel

ROWS, EVENT = 16, (3, 2)
STEPS = (30, 101)
SDES = {"ve": ("ve", 1e-5), "vp": ("vp", 1e-3), "subvp": ("subvp[chain=published]", 1e-3)}
BETA_0, BETA_1, SIGMA_0, SIGMA_1 = 0.1, 20.0, 0.01, 50.0
CORRECTORS = {
    "none": "none",
    "langevin": "langevin[snr=0.16,n_steps=2]",
    "ald": "ald[snr=0.2,n_steps=2]",
}
PREDICTORS = {
    "none": "none",
    "euler_maruyama": "euler_maruyama[dt=published]",
    "euler_maruyama, flow": "euler_maruyama[dt=published,probability_flow=true]",
    "reverse_diffusion": "reverse_diffusion",
    "reverse_diffusion, flow": "reverse_diffusion[probability_flow=true]",
    "probability_flow": "probability_flow",
    "ancestral_sampling": "ancestral_sampling",
}


class Mixture:
    """N(-1, 0.2^2) and N(0.8, 0.2^2), one to two, in every coordinate."""

    shape = EVENT

    def score(self, x, level):
        return score(x, level.alpha, level.sigma)


def score(x, alpha, sigma):
    variance = (0.2 * alpha) ** 2 + sigma**2
    off = x.unsqueeze(-1) - alpha * torch.tensor([-1.0, 0.8], dtype=torch.float64)
    shares = (torch.tensor([1 / 3, 2 / 3], dtype=torch.float64).log() - off.square() / (2 * variance)).softmax(-1)
    return -(shares * off).sum(-1) / variance


class Noise:
    """The draws of a run, by step, purpose and number, the same for both codes."""

    def __init__(self):
        self.seen = {}

    def __call__(self, *key):
        if key not in self.seen:
            generator = torch.Generator().manual_seed(len(self.seen))
            self.seen[key] = torch.randn(ROWS, *EVENT, generator=generator, dtype=torch.float64)
        return self.seen[key].clone()

    def at(self, step, purpose):
        numbers = iter(range(1000))
        return lambda: self(step, purpose, next(numbers))


class Published:
    """Numbers of the three SDEs at a time t, with N scales."""

    def __init__(self, name, n, eps):
        self.name, self.n = name, n
        self.times = torch.linspace(1, eps, n, dtype=torch.float64).tolist()
        self.betas = torch.linspace(BETA_0 / n, BETA_1 / n, n, dtype=torch.float64).tolist()
        self.sigmas = torch.linspace(math.log(SIGMA_0), math.log(SIGMA_1), n, dtype=torch.float64).exp().tolist()

    def marginal(self, t):
        if self.name == "ve":
            return 1.0, SIGMA_0 * (SIGMA_1 / SIGMA_0) ** t
        log_mean = -0.25 * t**2 * (BETA_1 - BETA_0) - 0.5 * t * BETA_0
        variance = -math.expm1(2 * log_mean)
        return math.exp(log_mean), variance if self.name == "subvp" else math.sqrt(variance)

    def score(self, x, t):
        return score(x, *self.marginal(t))

    def sde(self, x, t):
        if self.name == "ve":
            return 0 * x, self.marginal(t)[1] * math.sqrt(2 * math.log(SIGMA_1 / SIGMA_0))
        beta = BETA_0 + t * (BETA_1 - BETA_0)
        discount = -math.expm1(-2 * BETA_0 * t - (BETA_1 - BETA_0) * t**2) if self.name == "subvp" else 1.0
        return -0.5 * beta * x, math.sqrt(beta * discount)

    def entry(self, t):
        return int(t * (self.n - 1) + 1e-9)

    def discretize(self, x, t):
        if self.name == "subvp":
            drift, diffusion = self.sde(x, t)
            return drift / self.n, diffusion * math.sqrt(1 / self.n)
        if self.name == "vp":
            beta = self.betas[self.entry(t)]
            return math.sqrt(1 - beta) * x - x, math.sqrt(beta)
        i = self.entry(t)
        return 0 * x, math.sqrt(self.sigmas[i] ** 2 - (self.sigmas[i - 1] ** 2 if i else 0))

    def euler_maruyama(self, x, t, z, flow=False):
        drift, diffusion = self.sde(x, t)
        drift = drift - diffusion**2 * self.score(x, t) * (0.5 if flow else 1.0)
        mean = x - drift / self.n
        return (mean, mean) if flow else (mean + diffusion * math.sqrt(1 / self.n) * z(), mean)

    def reverse_diffusion(self, x, t, z, flow=False):
        f, diffusion = self.discretize(x, t)
        mean = x - (f - diffusion**2 * self.score(x, t) * (0.5 if flow else 1.0))
        return (mean, mean) if flow else (mean + diffusion * z(), mean)

    def probability_flow(self, x, t, z):
        return self.reverse_diffusion(x, t, z, flow=True)

    def ancestral_sampling(self, x, t, z):
        i = self.entry(t)
        if self.name == "vp":
            mean = (x + self.betas[i] * self.score(x, t)) / math.sqrt(1 - self.betas[i])
            return mean + math.sqrt(self.betas[i]) * z(), mean
        now, before = self.sigmas[i] ** 2, self.sigmas[i - 1] ** 2 if i else 0.0
        mean = x + (now - before) * self.score(x, t)
        return mean + math.sqrt(before * (now - before) / now) * z(), mean

    def none(self, x, t, z):
        return x, x

    def langevin(self, x, t, z):
        return self.corrected(x, t, z, lambda e, g: (0.16 * norm(e) / norm(g)) ** 2)

    def ald(self, x, t, z):
        return self.corrected(x, t, z, lambda e, g: (0.2 * self.marginal(t)[1]) ** 2)

    def corrected(self, x, t, z, size):
        """Two Langevin steps of 2 alpha ``size``."""
        alpha = 1 - self.betas[self.entry(t)] if self.name == "vp" else 1.0
        mean = x
        for _ in range(2):
            gradient, e = self.score(x, t), z()
            step = 2 * alpha * size(e, gradient)
            mean = x + step * gradient
            x = mean + (2 * step) ** 0.5 * e
        return x, mean

    def run(self, x, predictor, corrector, noise):
        """The loop: samples with and without the noise of the last step."""
        predictor, flow = (getattr(self, predictor.split(",")[0]), {"flow": True} if "," in predictor else {})
        for k, t in enumerate(self.times):
            x, _ = getattr(self, corrector)(x, t, noise.at(k, "corrector"))
            x, mean = predictor(x, t, noise.at(k, "predictor"), **flow)
        return x, mean


def norm(values):
    return values.flatten(1).norm(dim=1).mean()


def assert_close(found, expected, tolerance=1e-9):
    assert float((found - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


COMBINATIONS = [
    (name, predictor, corrector)
    for name in SDES
    for predictor in PREDICTORS
    for corrector in CORRECTORS
    # score_sde_pytorch has no ancestral sampling and no correctors for sub-VP; two that do nothing move nothing.
    if not (name == "subvp" and (predictor == "ancestral_sampling" or corrector != "none"))
    and not (predictor == corrector == "none")
]


@pytest.mark.parametrize(("name", "predictor", "corrector"), COMBINATIONS)
def test_score_sde(name, predictor, corrector):
    spec, eps = SDES[name]
    sde, noise = create("sdes", spec), Noise()
    x = (SIGMA_1 if name == "ve" else 1.0) * noise("prior")
    for steps in STEPS:
        expected = Published(name, steps, eps).run(x, predictor, corrector, noise)
        for denoise, theirs in zip(("false", "true"), expected, strict=True):
            parts = f"predictor={PREDICTORS[predictor]},corrector={CORRECTORS[corrector]}"
            sampler = create("samplers", f"pc[{parts},grid=uniform,steps={steps},denoise={denoise}]")
            assert skip(sampler, sde, EVENT) is None
            assert_close(sampler.run(x, ExactScore(Mixture(), sde), noise), theirs)


@pytest.mark.parametrize(("sigma", "levels", "step", "rounds"), [(1.0, 10, 2e-5, 5), (50.0, 232, 6.2e-6, 1)])
def test_ncsn_and_ncsnv2(sigma, levels, step, rounds):
    """x + a s + sqrt(2 a) z with a = step (sigma_i / sigma_L)^2, from the largest sigma_i to the smallest.

    Both papers' own steps, which is snr = sqrt(step / 2) / sigma_L here; fewer of NCSN's 100 at each level.
    """
    noise = Noise()
    x = expected = sigma * noise("prior")
    scales = torch.linspace(math.log(sigma), math.log(0.01), levels, dtype=torch.float64).exp().tolist()
    for k, scale in enumerate(scales):
        draw, size = noise.at(k, "corrector"), step * (scale / 0.01) ** 2
        for _ in range(rounds):
            expected = expected + size * score(expected, 1.0, scale) + math.sqrt(2 * size) * draw()
    snr = math.sqrt(step / 2) / 0.01
    assert snr == pytest.approx(0.316 if levels == 10 else 0.176, abs=5e-4)  # score_sde_pytorch's rounded settings
    corrector = f"ald[snr={snr!r},n_steps={rounds}]"
    sampler = create("samplers", f"pc[predictor=none,corrector={corrector},grid=uniform,steps={levels}]")
    sde = create("sdes", f"ve[sigma_max={sigma},t_min=1e-12]")
    assert_close(sampler.run(x, ExactScore(Mixture(), sde), noise), expected)


class OfTheTable(ScoreModel):
    """The score at DDPM's own levels, which a model of discrete time knows."""

    def __init__(self, sde, n):
        self.sde, self.n = sde, n

    def evaluate(self, x, level):
        entry = self.sde.discrete_level(torch.tensor(level.t, dtype=torch.float64), self.n)
        return score(x, float(entry.alpha), float(entry.sigma))


@pytest.mark.parametrize("large", [True, False])
def test_ddpm(large):
    """Algorithm 2 with eps, for beta_1 to beta_N, by the larger and the smaller of the paper's variances.

    The larger is ``ancestral_sampling``; the smaller ``ddim[eta=1]`` where its levels are those of the table.
    """
    n, noise = 60, Noise()
    betas = torch.linspace(BETA_0 / n, BETA_1 / n, n, dtype=torch.float64)
    products = (1 - betas).cumprod(0).tolist()
    x = expected = noise("prior")
    for k, i in enumerate(reversed(range(n))):
        beta, now, before = float(betas[i]), products[i], products[i - 1] if i else 1.0
        eps = -math.sqrt(1 - now) * score(expected, math.sqrt(now), math.sqrt(1 - now))
        expected = (expected - beta / math.sqrt(1 - now) * eps) / math.sqrt(1 - beta)
        variance = beta if large else beta * (1 - before) / (1 - now)
        if i:
            expected = expected + math.sqrt(variance) * noise(k, "predictor", 0)
    sde = create("sdes", "vp")
    if large:
        sampler = create("samplers", f"pc[predictor=ancestral_sampling,grid=uniform,steps={n}]")
        assert_close(sampler.run(x, OfTheTable(sde, n), noise), expected)
        return
    step = create("predictors", "ddim[eta=1]")
    y, levels = x, [(math.sqrt(p), math.sqrt(1 - p)) for p in reversed(products)] + [(1.0, 0.0)]
    for k, (now, ahead) in enumerate(pairwise(levels)):
        y, mean = step.step(y, between(sde, k, n, now, ahead), ExactScore(Mixture()), noise.at(k, "predictor"))
    assert_close(mean, expected)


def between(sde, k, n, now, ahead):
    """A step between two levels that are on no grid."""
    from scoresde_core.schedule import Step
    from scoresde_core.sde import Level

    unused = dict.fromkeys(("drift_rate", "diffusion", "discrete_drift", "discrete_diffusion"), math.nan)
    unused |= dict.fromkeys(("transition_scale", "transition_std", "backward_std"), math.nan)
    return Step(k, n, Level(1 - k / n, *now), Level(1 - (k + 1) / n, *ahead), **unused, sde=sde)


@pytest.mark.parametrize("spec", ["vp", "subvp"])
def test_steps_of_one_nth_are_the_grids_own_where_t_min_is_one_nth(spec):
    """N = 1000 and t_min = 1e-3, as in the published runs; with fewer steps and under VE the two differ."""
    sde, x = create("sdes", spec), Noise()("prior")
    ours, published = (
        create("samplers", f"pc[predictor=euler_maruyama[dt={dt}],steps=1000]") for dt in ("grid", "published")
    )
    same = [sampler.run(x, ExactScore(Mixture(), sde), Noise()) for sampler in (ours, published)]
    assert_close(*same)
    few = [create("samplers", f"pc[predictor=euler_maruyama[dt={dt}],steps=50]") for dt in ("grid", "published")]
    apart = [sampler.run(x, ExactScore(Mixture(), sde), Noise()) for sampler in few]
    assert float((apart[0] - apart[1]).abs().max()) > 1e-3


def test_steps_of_one_nth_are_refused_where_they_do_not_fit():
    sampler = create("samplers", "pc[predictor=euler_maruyama[dt=published],grid=karras,steps=9]")
    reason = skip(sampler, create("sdes", "vp"), EVENT)
    assert reason is not None
    assert "euler_maruyama[dt=published]" in reason
    assert "use the grid uniform" in reason
    with pytest.raises(UsageError, match="1/N"):
        sample(ExactScore(Mixture(), create("sdes", "vp")), sampler, 2)
    everywhere = create("samplers", "pc[predictor=euler_maruyama[dt=published],grid=logsnr,steps=9]")
    assert skip(everywhere, create("sdes", "ve"), EVENT) is None  # under VE the grid is the same
