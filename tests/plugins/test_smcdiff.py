"""Particles for a known part: the exact conditional law with every predictor and corrector, counted, one by one."""

import math
from itertools import pairwise

import attrs
import pytest
import torch
from conditional_law import given
from exact_conditional import APART, CROSS, POINT, correlated, deviations, draw
from scoresde import (
    ConditionedSampler,
    ExactScore,
    MultistepPredictor,
    Noise,
    Schedule,
    create,
    default_registry,
    sample,
)
from scoresde_conformance.exact import Watched
from scoresde_core.errors import UsageError
from scoresde_core.frame import rotate
from scoresde_plugins.conditions.known import Colorize, Inpaint, LinearMeasurement
from scoresde_plugins.conditions.label import ClassCondition
from scoresde_plugins.operators.average import AverageOperator
from scoresde_plugins.posterior.smcdiff import SMCDiff, _Particles
from scoresde_plugins.song2021.sdes import VESDE, VPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers

PREDICTORS = [entry.row.name for entry in default_registry().entries("predictors") if entry.row.name != "none"]
CORRECTORS = [entry.row.name for entry in default_registry().entries("correctors")]
IMAGES = GaussianTarget((3, 8, 8), std=0.5, decay=2.0)
SECOND_ORDER = "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps={}]"


class TestExactConditional:
    """The closed form that the other tests compare with."""

    @pytest.mark.parametrize(
        "known", [Inpaint(mask="top"), Colorize(), LinearMeasurement()], ids=lambda c: type(c).__name__
    )
    def test_is_the_law_of_draws_whose_known_part_is_near(self, known):
        """Among 200,000 exact draws those with the known part within a small ball, for mean and weights."""
        target = MixtureOfFactorAnalysers(
            torch.tensor([0.6, 0.4]), 0.5 * torch.tensor([[1.0, -1, 1] * 4, [-1.0, 0, 1] * 4]),
            torch.linspace(-1, 1, 24).sin().reshape(2, 1, 12), torch.full((12,), 0.09), (3, 2, 2),
        )  # fmt: skip
        events = target.sample(200_000, seed=1).double()
        observed = known.observe(events[:1])
        exact = given(target, observed)
        mask = observed.known[0]
        apart = (rotate(events, observed.basis) - observed.values)[:, mask].square().sum(1).sqrt()
        near = exact.unknown(events[apart < apart.kthvalue(300).values])
        z = (near.mean(0) - exact.law.moments()[0]) / near.std(0) * math.sqrt(len(near))
        assert float(z.abs().max()) < 5  # the ball is not a point

    def test_events_have_the_known_part_and_give_the_unknown_back(self):
        x = correlated().sample(5, seed=3).double()
        for condition in (Inpaint(), Colorize(), LinearMeasurement()):
            exact = given(correlated(), condition.observe(x[:1]))
            made = exact.events(exact.unknown(x))
            torch.testing.assert_close(exact.unknown(made), exact.unknown(x))
            torch.testing.assert_close(made[0], x[0])
            torch.testing.assert_close(condition.observe(made).values, condition.observe(x[:1].expand_as(x)).values)

    def test_of_two_coordinates_is_bayes_rule(self):
        law, mixture = given(CROSS.mixture, Inpaint().observe(POINT)).law, CROSS.mixture
        weights = mixture.weights * (-0.5 * (0.25 - mixture.means[:, 0]).square() / CROSS.std**2).exp()
        torch.testing.assert_close(law.modes(), weights / weights.sum())
        torch.testing.assert_close(law.means, mixture.means[:, 1:])
        assert float(law.noise + law.factors.square().sum((0, 1)) / 4) == pytest.approx(CROSS.std**2)


class TestLaw:
    @pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
    def test_of_a_missing_coordinate(self, sde):
        """Weights, mean and variance within 4 standard errors, where replacement is 13 off."""
        x = POINT.expand(1000, 2)
        law = given(CROSS.mixture, Inpaint().observe(x)).law
        found, plain = (
            draw(CROSS, c, x, SECOND_ORDER.format(80), sde).x[:, 1:].double()
            for c in (SMCDiff(particles=48), Inpaint())
        )
        assert float(deviations(found, law).abs().max()) < 4
        assert float(deviations(plain, law).abs().max()) > 10

    @pytest.mark.parametrize("known", [Inpaint(), LinearMeasurement()], ids=["inpaint", "linear"])
    def test_of_a_mixture_whose_parts_tell_of_each_other(self, known):
        target = correlated()
        x = target.sample(2, seed=7)[1:].expand(300, 3, 2, 2)
        exact = given(target, known.observe(x))
        found = exact.unknown(draw(target, SMCDiff(known, 64), x, SECOND_ORDER.format(120)).x)
        assert float(deviations(found, exact.law).abs().max()) < 4

    def test_error_falls_with_the_particles(self):
        """Of the weight of x_2 > 0: each four times as many particles more than halve it, until chance hides it."""
        x, off = POINT.expand(2000, 2), []
        law = given(CROSS.mixture, Inpaint().observe(x)).law
        truth = float(law.modes()[law.means[:, 0] > 0].sum())
        chance = math.sqrt(truth * (1 - truth) / len(x))
        for particles in (1, 4, 16, 64):
            y = draw(CROSS, SMCDiff(particles=particles), x, "pc[predictor=dpmpp_2m,grid=logsnr,steps=30]").x[:, 1]
            off.append(abs(float((y > 0).double().mean()) - truth))
        assert off[0] > 15 * chance
        for few, more in pairwise(off):
            assert more < few / 2 + 3 * chance
        assert off[-1] < 3 * chance

    @pytest.mark.parametrize("predictor", PREDICTORS)
    def test_is_right_with_every_predictor(self, predictor):
        """With noise or without, of one step or several: one weight serves them all."""
        self.check(f"pc[predictor={predictor},grid=logsnr,steps=40]")

    @pytest.mark.parametrize(
        "predictor", ["ddim[eta=0.5]", "heun[s_churn=10]", "reverse_diffusion[probability_flow=true]"]
    )
    def test_is_right_with_a_share_of_the_noise(self, predictor):
        self.check(f"pc[predictor={predictor},grid=logsnr,steps=40]")

    @pytest.mark.parametrize("corrector", CORRECTORS)
    @pytest.mark.parametrize("order", ["corrector_first", "predictor_first"])
    def test_is_right_with_every_corrector(self, corrector, order):
        self.check(f"pc[predictor=dpmpp_2m,corrector={corrector},order={order},grid=logsnr,steps=40]")

    @pytest.mark.parametrize("predictor", ["ddim[eta=1]", "dpmpp_2m", "unipc"])
    def test_is_right_with_rounds(self, predictor):
        self.check(f"pc[predictor={predictor},grid=logsnr,steps=40]", rounds=3)

    def check(self, sampler, rounds=1):
        """The weight of x_2 > 0, which replacement misses by 12 standard errors of 600 samples."""
        x = POINT.expand(600, 2)
        law = given(CROSS.mixture, Inpaint().observe(x)).law
        truth = float(law.modes()[law.means[:, 0] > 0].sum())
        found = draw(CROSS, SMCDiff(particles=16), x, sampler, rounds=rounds).x
        assert bool((found[:, 0] == 0.25).all())
        assert abs(float((found[:, 1] > 0).double().mean()) - truth) < 4 * math.sqrt(truth * (1 - truth) / len(x))


class TestParticles:
    def test_share_a_path_of_the_forward_process(self):
        """eta at two levels has variance 1 and correlation rho / rho', and is the same for a sample's particles."""
        x, sde, seen = IMAGES.sample(1).expand(50, 3, 8, 8), VPSDE(), []

        class Spy(Watched):
            def evaluate(self, x, level):
                seen.append((x.unflatten(0, (50, 4))[..., :4].clone(), level))
                return super().evaluate(x, level)

        conditioned = ConditionedSampler(create("samplers", "pc[steps=6]"), SMCDiff(particles=4).observe(x))
        sample(Spy(IMAGES, sde), conditioned, 50)
        etas = [(state - level.alpha * x[:, None, ..., :4]) / level.sigma for state, level in seen]
        chance = 1 / math.sqrt(50 * 3 * 8 * 4)
        for (now, (_, level)), (later, (_, ahead)) in pairwise(zip(etas, seen, strict=True)):
            torch.testing.assert_close(now, now[:, :1].expand_as(now), rtol=0, atol=1e-4)
            assert float(now[:, 0].square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2) * chance)
            expected = level.alpha / level.sigma * ahead.sigma / ahead.alpha
            assert float((now * later)[:, 0].mean()) == pytest.approx(expected, abs=4 * math.sqrt(2) * chance)

    def test_weigh_alike_where_the_parts_are_independent(self):
        """Nothing is chosen then: each particle goes its own way, whatever share of K is asked for."""
        x = POINT.expand(50, 2)
        sampler = "pc[predictor=ddim[eta=1],grid=logsnr,steps=20]"
        one, other = (draw(APART, SMCDiff(particles=4, threshold=t), x, sampler).x for t in (0.0, 0.99))
        assert torch.equal(one, other)
        one, other = (draw(CROSS, SMCDiff(particles=4, threshold=t), x, sampler).x for t in (0.0, 0.99))
        assert not torch.equal(one, other)

    def test_weights_are_the_ancestral_density_of_the_path(self):
        """log N(y'; posterior mean of the chain given D, its variance), up to what all particles share."""
        n, particles, dtype = 3, 5, torch.float64
        x = torch.randn(n, 2, dtype=dtype, generator=torch.Generator().manual_seed(2))
        noise = Noise(0, (2,), n, dtype=dtype)
        run = _Particles(SMCDiff(particles=particles).observe(x), noise)
        step = Schedule(VPSDE(), torch.tensor([1.0, 0.6, 0.4, 1e-3])).steps[1]
        now, ahead = step.now, step.next
        denoised = torch.randn(n * particles, 2, dtype=dtype, generator=torch.Generator().manual_seed(3))
        before = now.alpha * x[:, 0] + now.sigma * run.path[:, 0]
        run.advance(step)
        run.judge(denoised, step)
        after = ahead.alpha * x[:, 0] + ahead.sigma * run.path[:, 0]
        a = now.alpha / ahead.alpha
        added = now.sigma**2 - a**2 * ahead.sigma**2
        variance = added * ahead.sigma**2 / now.sigma**2
        guess = denoised.reshape(n, particles, 2)[..., 0]
        mean = a * ahead.sigma**2 / now.sigma**2 * before[:, None] + ahead.alpha * added / now.sigma**2 * guess
        expected = (-0.5 * (after[:, None] - mean).square() / variance).log_softmax(1)
        torch.testing.assert_close(run.log_weights, expected)

    def test_take_their_past_with_them(self):
        """What a multistep predictor remembers belongs to the particle that goes on."""

        @attrs.frozen
        class Remembering(MultistepPredictor):
            def advance(self, x, step, model, noise, past):
                if past:
                    torch.testing.assert_close(past[0][1][:, 1], x[:, 1])
                score = model.score(x, step.now)
                x = (x + step.transition_std**2 * score) / step.transition_scale + step.backward_std * noise()
                return x, x, ((step.now, x),)

        sampler = attrs.evolve(create("samplers", "pc[grid=logsnr,steps=20]"), predictor=Remembering())
        observed = SMCDiff(threshold=1.0).observe(POINT.expand(20, 2))
        sample(ExactScore(CROSS, VPSDE()), ConditionedSampler(sampler, observed), 20)

    @pytest.mark.parametrize(
        ("sampler", "rounds", "cost"),
        [
            ("pc[steps=7]", 1, 7),
            ("pc[steps=7,corrector=langevin]", 1, 14),
            ("pc[steps=7]", 3, 21),
            ("pc[steps=7,predictor=heun]", 1, 13),
            # Churn evaluates elsewhere first: the weights of all steps but the last need one evaluation more.
            ("pc[steps=7,predictor=heun[s_churn=1]]", 1, 13 + 6),
        ],
    )
    def test_are_counted(self, sampler, rounds, cost):
        assert draw(CROSS, SMCDiff(particles=5), POINT.expand(3, 2), sampler, rounds=rounds).nfe == 5 * cost

    def test_start_the_first_at_the_latent(self):
        x, latents = POINT.expand(4, 2), torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
        one, same, other = (
            draw(CROSS, SMCDiff(particles=1), x, "pc[predictor=ddim,steps=5]", latent=latent).x
            for latent in (latents[0], latents[0], latents[1])
        )
        assert torch.equal(one, same)
        assert not torch.isclose(one[:, 1], other[:, 1]).any()

    def test_are_shown_as_one_a_sample(self):
        seen = []
        draw(
            CROSS, SMCDiff(particles=5), POINT.expand(3, 2), "pc[steps=2]", observe=lambda k, n, x: seen.append(x.shape)
        )
        assert seen == [(3, 2), (3, 2)]


class TestSamples:
    KNOWN = (Inpaint(), Inpaint(mask="random", share=0.3), Colorize(), LinearMeasurement(AverageOperator(4)))

    @pytest.mark.parametrize("known", KNOWN, ids=["inpaint", "random", "colorize", "linear"])
    def test_hold_the_known_part_and_nothing_else_of_the_events(self, known):
        """Exactly, with and without the last denoising; other hidden coefficients give the same samples."""
        x = IMAGES.sample(3).double()
        observed = known.observe(x)
        hidden = torch.where(observed.known, 0.0, torch.randn(3, 3, 8, 8, dtype=torch.float64))
        other = x + rotate(hidden, observed.basis, inverse=True)
        mask = observed.known.expand(3, 3, 8, 8)
        for sampler in ("pc[steps=8]", "pc[steps=8,denoise=false,corrector=langevin]"):
            one, two = (
                draw(IMAGES, SMCDiff(known, 4), events, sampler, dtype=torch.float64).x for events in (x, other)
            )
            torch.testing.assert_close(rotate(one, observed.basis)[mask], rotate(x, observed.basis)[mask])
            torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
            assert float((rotate(one - x, observed.basis))[~mask].square().mean()) > 1e-3

    def test_hold_pixels_to_the_bit_whatever_hides(self):
        x = IMAGES.sample(3)
        x[..., 4:] = math.nan
        drawn = draw(IMAGES, SMCDiff(particles=4), x, "pc[steps=8]").x
        assert torch.equal(drawn[..., :4], x[..., :4])
        assert bool(drawn.isfinite().all())

    def test_come_out_denoised(self):
        """N(0, s^2) coordinates with s = 1e-3, far below sigma(t_min): what is left of noise is s, not sigma."""
        target = GaussianTarget((2,), std=1e-3)
        step = "pc[steps=200,denoise={}]"
        x, condition = torch.zeros(500, 2), SMCDiff(particles=2)
        clean, noisy = (draw(target, condition, x, step.format(d), VESDE()).x for d in ("true", "false"))
        assert float(noisy[:, 1].std()) > 5e-3
        assert float(clean[:, 1].std()) < 1e-3

    def test_do_not_depend_on_the_batch(self):
        """Nor on each other: those of a part of the run are those of the whole."""
        condition = SMCDiff(Inpaint(mask="random"), 4, threshold=0.9)
        observed = condition.observe(IMAGES.sample(7))
        conditioned = ConditionedSampler(create("samplers", "pc[predictor=dpmpp_2m_sde,steps=6]"), observed, 2)
        whole, parts = (sample(ExactScore(IMAGES, VPSDE()), conditioned, 7, batch_size=size).x for size in (None, 3))
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)
        later = sample(ExactScore(IMAGES, VPSDE()), ConditionedSampler(conditioned.sampler, observed, 2), 2, first=5)
        torch.testing.assert_close(whole[5:], later.x, rtol=0, atol=1e-5)
        assert not torch.isclose(whole[0], whole[1]).all()


class TestBadInput:
    def test_a_condition_that_knows_no_part(self):
        with pytest.raises(ValueError, match="as inpaint does, got ClassCondition"):
            SMCDiff(ClassCondition(target=CROSS))
        with pytest.raises(ValueError, match="as inpaint does, got SMCDiff"):
            SMCDiff(SMCDiff())
        with pytest.raises(UsageError, match="'particles' must be >= 1: 0"):
            create("conditions", "smcdiff[particles=0]")

    def test_what_the_condition_refuses(self):
        assert "3 channels" in create("conditions", "smcdiff[condition=colorize]").skip((1, 8, 8))
        with pytest.raises(UsageError, match="take pc"):
            draw(CROSS, SMCDiff(), torch.zeros(2, 2), "ode")
        observed = SMCDiff().observe(torch.zeros(2, 2))
        with pytest.raises(ValueError, match="2 events were observed, too few for sample 4"):
            sample(ExactScore(CROSS, VPSDE()), ConditionedSampler(create("samplers", "pc[steps=2]"), observed), 5)
