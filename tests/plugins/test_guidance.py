"""Guided samples have the law of their own guided flow or SDE, integrated independently; and it is no tilted law."""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from runs import save_models
from scoresde import ExactScore, create, default_registry, sample
from scoresde_core.errors import UsageError
from scoresde_core.sde import Level
from scoresde_plugins.evaluators.distances import sums, two_sample
from scoresde_plugins.evaluators.tilted import TiltedLaw
from scoresde_run.data.evidence import Evidence
from scoresde_run.sampling.guidance import GuidedSampler

TARGET = "mixture2d[layout=ring,components=3,radius=1,std=0.3,weights=[0.5,0.3,0.2]]"
SDE = create("sdes", "vp[t_min=0.01]")
PREDICTORS = [e.row.name for e in default_registry().entries("predictors") if e.row.name != "none"]
EXACT = create("targets", TARGET).to("cpu", torch.float64)


def told(label, n=None, sde=SDE):
    """The exact score of samples of a class: one label for all, or ``n`` rows."""
    rows = torch.tensor([label]) if n is None else torch.full((n,), label)
    return ExactScore(EXACT, sde).given(**{"class": rows})


def reference_score(x, alpha, sigma, label, scale, low=0.0, high=math.inf):
    """(1 - w) s(x) + w s(x | c), from the densities of three Gaussians alone."""
    mixture = EXACT.mixture
    variance = (alpha * 0.3) ** 2 + sigma**2
    away = alpha * mixture.means - x[:, None]
    r = (mixture.weights.log() - 0.5 * away.square().sum(2) / variance).softmax(1)
    free = (r[:, :, None] * away).sum(1) / variance
    own = away[:, label] / variance
    weight = scale if low * alpha < sigma <= high * alpha else 1.0
    return free + weight * (own - free)


def integrate(x, label, scale, steps, stochastic, seed=0, **interval):
    """The guided reverse flow (Heun) or SDE (Euler-Maruyama) of variance preservation from t = 1, on a fine grid."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.logspace(0, math.log10(SDE.t_min), steps + 1, dtype=torch.float64).tolist()
    beta_min, beta_max = 0.1, 20.0

    def slope(x, t):
        integral = beta_min * t + 0.5 * (beta_max - beta_min) * t * t
        alpha, beta = math.exp(-0.5 * integral), beta_min + (beta_max - beta_min) * t
        sigma = math.sqrt(-math.expm1(-integral))
        score = reference_score(x, alpha, sigma, label, scale, **interval)
        return -0.5 * beta * x - (1.0 if stochastic else 0.5) * beta * score, beta

    for now, after in pairwise(times):
        dt = after - now
        first, beta = slope(x, now)
        if stochastic:
            noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
            x = x + first * dt + math.sqrt(-beta * dt) * noise
        else:
            second, _ = slope(x + first * dt, after)
            x = x + 0.5 * (first + second) * dt
    return x


def test_the_score_of_a_class_is_that_of_its_component():
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, level = torch.tensor([0, 1, 2, 1, -1, 0]), Level(0.3, 0.8, 0.6)
    found = ExactScore(EXACT).part(known={"class": labels}).score(x, level)
    for row, label in enumerate(labels.tolist()):
        law = EXACT if label < 0 else EXACT.component(label)
        torch.testing.assert_close(found[row], law.score(x[row : row + 1], level)[0])


def test_a_class_adds_the_gradient_of_its_log_probability():
    """s(x | c) = s(x) + grad log p(c | x), at a noise level."""
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    level = Level(0.3, 0.8, 0.6)
    (slope,) = torch.autograd.grad(EXACT.log_responsibilities(x, level)[:, 1].sum(), x)
    expected = EXACT.score(x.detach(), level) + slope
    torch.testing.assert_close(EXACT.score(x.detach(), level, torch.full((5,), 1)), expected)


@cache
def guided_law(stochastic):
    """512 draws of the guided law of class 1 at scale 2.5, by the independent integrator."""
    start = torch.randn(512, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    return integrate(start, 1, 2.5, 1000 if stochastic else 200, stochastic)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_guided_samples_have_the_law_of_their_guided_process(predictor):
    """At 200 steps, by the energy distance to the flow or SDE that another integrator follows."""
    sampler = create("samplers", f"pc[predictor={predictor},steps=200]")
    guided, n = GuidedSampler(sampler, create("guidances", "cfg[scale=2.5]")), 512
    drawn = sample(told(1), guided, n, seed=4, dtype=torch.float64)
    truth = guided_law(predictor in STOCHASTIC)
    found = two_sample(drawn.x, truth, _same, sums(truth, truth, _same))
    assert abs(found.value) < 4 * found.stderr + 0.004, found
    plain = two_sample(drawn.x, EXACT.component(1).sample(n).double(), _same, sums(truth, truth, _same))
    assert plain.value > 0.02  # the test can tell a guided law from the law of the class


STOCHASTIC = {"reverse_diffusion", "euler_maruyama", "ancestral_sampling"} | {
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "sa_solver",
    "seeds",
}


def _same(distance):
    return distance


def test_guidance_follows_its_own_flow_point_by_point():
    """In an interval of noise, from the same latents as the independent integrator; outside one evaluation a step."""
    n, interval = 64, (0.3, 3.0)
    latent = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    guidance = create("guidances", "cfg[scale=3,interval=[0.3,3]]")
    sampler = GuidedSampler(create("samplers", "pc[predictor=dpmpp_2m,steps=400,denoise=false]"), guidance)
    drawn = sample(told(2), sampler, n, latent=latent, dtype=torch.float64)
    truth = integrate(latent, 2, 3.0, 2000, False, low=interval[0], high=interval[1])
    torch.testing.assert_close(drawn.x, truth, atol=0.02, rtol=0.02)
    everywhere = integrate(latent, 2, 3.0, 300, False)
    assert float((everywhere - truth).abs().max()) > 0.1
    assert 400 < drawn.nfe < 800


@pytest.mark.parametrize("sampler", ["ode[method=rk4,steps=10]", "adaptive_sde[rel_tol=0.3,abs_tol=0.1]",
                                     "pc[steps=10,corrector=ald,predictor=ddim]"])  # fmt: skip
def test_every_sampler_counts_both_evaluations(sampler):
    """Twice those of the same samples without guidance, in batches too; scale 1 costs nothing more."""
    model = told(0, 6)

    def nfe(text, **how):
        guided = GuidedSampler(create("samplers", sampler), create("guidances", text))
        return sample(model, guided, 6, seed=1, dtype=torch.float64, **how)

    plain = sample(model, create("samplers", sampler), 6, seed=1, dtype=torch.float64)
    one = nfe("cfg[scale=1]")
    torch.testing.assert_close(one.x, plain.x)
    assert one.nfe == plain.nfe
    if "adaptive" not in sampler:
        assert nfe("cfg[scale=2]").nfe == 2 * plain.nfe
        torch.testing.assert_close(nfe("cfg[scale=2]", batch_size=4).x, nfe("cfg[scale=2]").x)


def test_autoguidance_goes_away_from_the_weaker_score():
    wide = create("targets", "gaussian[shape=[2],std=2]").to("cpu", torch.float64)
    guidance = create("guidances", "autoguidance[target=gaussian[shape=[2],std=2],scale=1.7]")
    model, x = ExactScore(EXACT, SDE), torch.randn(4, 2, dtype=torch.float64)
    level = SDE.float_level(0.4)
    found = guidance.guide(model, x).score(x, level)
    weak = wide.score(x, level)
    torch.testing.assert_close(found, weak + 1.7 * (EXACT.score(x, level) - weak))
    assert model.rows == 2 * 4


def test_a_weaker_score_knows_the_class_of_its_sample():
    """In batches as in one: the rows of what it knows are chosen with those of the model."""
    model = ExactScore(EXACT, SDE).given(**{"class": torch.tensor([0, 1, 2, 0, 1, 2])})
    weak = f"autoguidance[target='{TARGET.replace('std=0.3', 'std=0.5')}',scale=1.5]"
    guided = GuidedSampler(create("samplers", "pc[predictor=ddim,steps=20]"), create("guidances", weak))
    whole, parts = (sample(model, guided, 6, seed=1, dtype=torch.float64, batch_size=size).x for size in (6, 4))
    torch.testing.assert_close(parts, whole)
    assert EXACT.responsibilities(whole).argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("sde", ["rectified_flow", "cld", "per_channel", "ouve"])
def test_a_class_under_wider_processes(sde):
    """Guidance by scale 1 alone gives the class, whatever the form of the process; at scale 0 it gives all."""
    process = create("sdes", sde)
    target = create("targets", f"observed[of={TARGET},noise=2]" if process.needs else TARGET)
    model = ExactScore(target, process).given(**{"class": torch.tensor([2])})
    sampler = create("samplers", "pc[predictor=euler_maruyama,steps=100]")

    def share(scale):
        guided = GuidedSampler(sampler, create("guidances", f"cfg[scale={scale}]"))
        return float(
            (EXACT.responsibilities(sample(model, guided, 128, seed=3).x.double()).argmax(1) == 2).float().mean()
        )

    assert share(1) > 0.97
    assert share(0) < 0.5


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 4.0])
def test_the_tilted_law_is_that_of_weighted_draws(scale):
    """Its mean and covariance: those of p(x | c) with weights p(c | x)^(w - 1), or of p(x) for w = 0."""
    law = TiltedLaw(EXACT, 1, scale)
    centres, weights, _ = law.cells()
    mean = weights @ centres
    x = (EXACT if scale == 0 else EXACT.component(1)).sample(200_000, seed=5).double()
    power = EXACT.log_responsibilities(x)[:, 1] * (scale - 1 if scale else 0)
    weight = power.softmax(0)
    size = 1 / float(weight.square().sum())
    expected = weight @ x
    spread = (weight @ (x - expected).square()).sqrt()
    assert bool(((mean - expected).abs() < 4 * spread / math.sqrt(size)).all())
    assert bool(((law.draw(20_000, 3).mean(0) - mean).abs() < 4 * spread / math.sqrt(20_000)).all())


def test_guided_samples_leave_the_tilted_law():
    """At scale 1 they have it; at scale 3 they are far from it."""
    judge = create("evaluators", "tilted_distance")

    def distance(scale):
        guided = GuidedSampler(
            create("samplers", "pc[predictor=dpmpp_2m,steps=100]"), create("guidances", f"cfg[scale={scale}]")
        )
        model = told(1)
        drawn = sample(model, guided, 512, seed=0, dtype=torch.float64)
        (found,) = judge.evaluate(Evidence(drawn.x, 0, model=model, sampler=guided))
        return found

    same, far = distance(1), distance(3)
    assert abs(same.value) < 4 * same.stderr
    assert far.value > 10 * far.stderr


def drawn(model, sampler, guidance):
    return sample(model, GuidedSampler(create("samplers", sampler), create("guidances", guidance)), 2)


def test_what_cannot_be_guided_is_refused_with_the_reason():
    plain, sampler = ExactScore(EXACT, SDE), "pc[predictor=euler_maruyama,steps=2]"
    with pytest.raises(UsageError, match="cfg guides by what is known of each sample, and nothing is"):
        drawn(plain, sampler, "cfg")
    with pytest.raises(UsageError, match="the model takes nothing called 'colour'"):
        plain.given(colour=torch.zeros(2))
    with pytest.raises(UsageError, match="'class' has 3 rows for 2 samples"):
        sample(told(0, 3), create("samplers", sampler), 2)
    with pytest.raises(UsageError, match=r"the weaker model is for events of shape \[3\], the model for \[2\]"):
        drawn(plain, sampler, "autoguidance[target=gaussian[shape=[3]]]")
    with pytest.raises(UsageError, match="interval must be two numbers with 0 <= low < high"):
        create("guidances", "cfg[interval=[2,1]]")
    with pytest.raises(UsageError, match="an interval of sigma / alpha needs one alpha and sigma"):
        drawn(told(0, sde=create("sdes", "cld")), sampler, "cfg[interval=[0,1]]")


def test_the_weaker_model_is_loaded_once(monkeypatch, tmp_path):
    """However many batches there are."""
    from scoresde_run import Checkpoint

    loads = []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda *words, **options: loads.append(1) or load(*words, **options))
    save_models(tmp_path, "weak")
    model = ExactScore(create("targets", "mixture2d"), create("sdes", "vp"))
    weak = create("guidances", f"autoguidance[checkpoint={tmp_path}/weak]")
    sample(model, GuidedSampler(create("samplers", "pc[steps=2]"), weak), 6, batch_size=2)
    assert len(loads) == 1
