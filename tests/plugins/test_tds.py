"""TDS: the exact posterior as particles grow, with every predictor and for operators that are not linear."""

import math
from itertools import pairwise

import pytest
import torch
from exact_conditional import CROSS, deviations
from exact_posterior import law_of
from torch.distributions import Normal
from scoresde import ConditionedSampler, ExactScore, Noise, Schedule, create, default_registry, sample
from scoresde_core.errors import ScoreSDEError, UsageError
from scoresde_plugins.posterior.method import Look
from scoresde_plugins.posterior.smcdiff import Particles
from scoresde_plugins.posterior.tds import TDS, _Twisted
from scoresde_plugins.song2021.sdes import VESDE, VPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget

PREDICTORS = [entry.row.name for entry in default_registry().entries("predictors") if entry.row.name != "none"]
MASK = "linear[operator=mask,noise=0.3]"
SECOND_ORDER = "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=50]"


def observed(particles, n, condition=MASK, y=0.25):
    condition = create("conditions", condition)
    return condition.given(torch.full((n, 1), y).double(), (2,)), TDS(condition=condition, particles=particles)


def draw(n, particles, sampler=SECOND_ORDER, sde=None):
    """Samples of the second coordinate's sign, and of both, given the first up to noise."""
    known, method = observed(particles, n)
    conditioned = ConditionedSampler(create("samplers", sampler), method.given(known))
    return sample(ExactScore(CROSS, sde or VPSDE()), conditioned, n).x, law_of(CROSS.mixture, known)


def share(law):
    """The posterior weight of x_2 > 0."""
    return float(law.modes()[law.means[:, 1] > 0].sum())


class TestLaw:
    def test_error_falls_with_the_particles(self):
        """Each four times as many more than halve it, until chance hides it."""
        off = []
        for particles in (1, 4, 16, 64):
            x, law = draw(2000, particles)
            off.append(abs(float((x[:, 1] > 0).double().mean()) - share(law)))
        chance = math.sqrt(share(law) * (1 - share(law)) / 2000)
        assert off[0] > 10 * chance
        for few, more in pairwise(off):
            assert more < few / 2 + 3 * chance
        assert off[-1] < 3 * chance

    @pytest.mark.parametrize("sde", [VPSDE(), VESDE(), create("sdes", "rectified_flow")], ids=["vp", "ve", "flow"])
    def test_of_a_mixture(self, sde):
        x, law = draw(1000, 48, sde=sde)
        assert float(deviations(x, law).abs().max()) < 4

    def test_ends_with_the_likelihood_of_the_events(self):
        """Of a chain of 6 steps that ends where there is much noise, whose events are normal by a recursion by hand."""
        sde, n, y, r = create("sdes", "vp[t_min=0.3]"), 4000, 1.5, 0.5
        target = GaussianTarget((2,), mean=0.5, std=1.2)
        mean, var = 0.0, 1.0
        for step in Schedule(sde, create("grids", "uniform").times(sde, 6)).steps:
            now, ahead = step.now, step.next
            total = (now.alpha * 1.2) ** 2 + now.sigma**2
            gain = now.alpha * 1.2**2 / total  # of E[x_0 | x] = 0.5 + gain (x - alpha 0.5)
            ratio = now.alpha / ahead.alpha
            fresh = 1 - (ratio * ahead.sigma / now.sigma) ** 2
            slope = ahead.alpha * fresh * gain + (1 - fresh) / ratio
            mean = slope * mean + ahead.alpha * fresh * 0.5 * (1 - gain * now.alpha)
            var = slope**2 * var + ahead.sigma**2 * fresh
        condition = create("conditions", f"linear[operator=mask,noise={r}]")
        known = TDS(condition=condition, particles=64).given(condition.given(torch.full((n, 1), y).double(), (2,)))
        sampler = create("samplers", "pc[predictor=ddim[eta=1],grid=uniform,steps=6]")
        x = sample(ExactScore(target, sde), ConditionedSampler(sampler, known), n).x[:, 0].double()
        share = var / (var + r**2)
        std = math.sqrt(share) * r
        assert abs(float(x.mean()) - (mean + share * (y - mean))) < 4 * std / math.sqrt(n)
        assert abs(float(x.std()) / std - 1) < 4 / math.sqrt(2 * n)

    @pytest.mark.parametrize("predictor", PREDICTORS)
    def test_is_right_with_every_predictor(self, predictor):
        """With noise in its steps or without: one weight serves all; guidance alone is 8 standard errors off."""
        slow = predictor in ("reverse_diffusion", "probability_flow")  # whose chains differ more from the SDE
        x, law = draw(600, 64, f"pc[predictor={predictor},grid=logsnr,steps={160 if slow else 40}]")
        chance = math.sqrt(share(law) * (1 - share(law)) / 600)
        assert abs(float((x[:, 1] > 0).double().mean()) - share(law)) < 4 * chance

    def test_of_magnitudes_is_that_of_quadrature(self):
        """Of two entries the magnitudes of the sum and the difference are known: four modes, of unequal weights."""
        target = GaussianTarget((1, 2), mean=(0.3, -0.1), std=(0.8, 0.6))
        condition = create("conditions", "linear[operator=phase[oversampling=1],noise=0.3]")
        y = torch.tensor([[[0.9, 0.4]]], dtype=torch.float64)
        axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis).unsqueeze(1)
        log = target.log_prob(points) - 0.5 * ((y - condition.operator.apply(points)) / 0.3).square().sum((1, 2))
        weights, products = log.softmax(0), torch.stack([points[:, 0, 0], points[:, 0, 1], points[:, 0].prod(1)], 1)
        truth, spread = weights @ products, (weights @ products.square() - (weights @ products) ** 2).sqrt()
        n = 1500
        known = TDS(condition=condition, particles=48).given(condition.given(y.expand(n, 1, 2), (1, 2)))
        x = sample(ExactScore(target, VPSDE()), ConditionedSampler(create("samplers", SECOND_ORDER), known), n).x
        found = torch.stack([x[:, 0, 0], x[:, 0, 1], x[:, 0].prod(1)], 1).double().mean(0)
        assert float(((found - truth) / spread).abs().max()) < 4 / math.sqrt(n)
        assert float(((target.as_mixture().moments()[0] - truth[:2]) / spread[:2]).abs().max()) > 6 / math.sqrt(n)


class TestSteps:
    @pytest.mark.parametrize("predictor", PREDICTORS)
    def test_the_noise_of_every_predictor_is_known(self, predictor):
        """A step leads to its mean + std z for the last z that it draws, or has no noise after its mean."""
        known, method = observed(1, 40)
        schedule = Schedule(VPSDE(), create("grids", "logsnr").times(VPSDE(), 8))
        inner, model, x, past = create("predictors", predictor), ExactScore(CROSS, VPSDE()), torch.randn(40, 2), ()
        for step in schedule.steps[:-1]:
            look = Look(model, x.double(), step.now, method.given(known))
            x, mean, past = look.step(inner, step, model, lambda: torch.randn(40, 2).double(), past)
            torch.testing.assert_close(x - mean, look.std * look.z, rtol=0, atol=1e-9)
            assert inner.stochastic or not look.std.any()

    @pytest.mark.parametrize("predictor", ["ddim[eta=1]", "euler_maruyama"])
    def test_weights_are_ratios_of_densities(self, predictor):
        """h' N(x'; m) / (h N(x'; m + std^2 grad log h)), of normal densities and a gradient by differences."""
        known, method = observed(1, 3)
        posterior, model = method.given(known), ExactScore(CROSS, VPSDE())
        step = Schedule(VPSDE(), torch.tensor([1.0, 0.5, 0.3, 0.0]))[1]
        run = Particles(Noise(0, (2,), 3, dtype=torch.float64), 1, 0.5)
        x, z = torch.randn(3, 2).double(), torch.randn(3, 2).double()

        def log_h(x, level):
            denoised = (x + level.sigma**2 * CROSS.score(x, level)) / level.alpha
            s2 = (level.sigma / level.alpha) ** 2
            return -0.5 * (0.25 - denoised[:, 0]) ** 2 / (0.09 + s2 / (1 + s2))

        slope = torch.zeros(3, 2).double()
        for axis in (0, 1):
            small = torch.zeros(2).double()
            small[axis] = 1e-5
            slope[:, axis] = (log_h(x + small, step.now) - log_h(x - small, step.now)) / 2e-5
        inner = create("predictors", predictor)
        plain, m = inner.step(x, step, model, z.clone)
        std = ((plain - m) / z)[:1, :1]
        moved, mean, _ = _Twisted(posterior, run, 0.09, inner).advance(x, step, model, z.clone, ())
        torch.testing.assert_close(moved, plain + std**2 * slope, rtol=0, atol=1e-7)
        torch.testing.assert_close(mean, m + std**2 * slope, rtol=0, atol=1e-7)
        expected = (
            log_h(moved, step.next) - log_h(x, step.now)
            + Normal(m, std).log_prob(moved).sum(1) - Normal(m + std**2 * slope, std).log_prob(moved).sum(1)
        )  # fmt: skip
        torch.testing.assert_close(log_h(moved, step.next) - run.owed, expected, rtol=0, atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("tds[condition=inpaint]", "TDS divides by the noise of y, and Inpaint has none"),
            ("tds[particles=0]", "particles"),
            ("tds[condition=dps]", "as inpaint does, got DPS"),
        ],
    )
    def test_is_one_line(self, text, words):
        with pytest.raises(ScoreSDEError, match=words) as caught:
            create("conditions", text)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("sampler", "rounds", "words"),
        [
            (SECOND_ORDER, 2, "TDS weighs every step, and takes it once: take rounds=1"),
            ("pc[corrector=langevin]", 1, "TDS acts after every step of a predictor and gives correctors no"),
            ("ode", 1, "TDS acts after every step of a predictor"),
        ],
    )
    def test_of_loops(self, sampler, rounds, words):
        known, method = observed(2, 2)
        conditioned = ConditionedSampler(create("samplers", sampler), method.given(known), rounds)
        with pytest.raises(UsageError, match=words):
            sample(ExactScore(CROSS, VPSDE()), conditioned, 2)
