"""The distribution that replacement samples, in closed form; in some cases it is the conditional one."""

import math
from itertools import pairwise

import pytest
import torch
from conditional_law import given
from exact_conditional import APART, CROSS, POINT, correlated, deviations, draw
from scoresde import ConditionedSampler, ExactScore, create, sample
from scoresde_core import WrappedScore
from scoresde_plugins.conditions.known import Colorize, Inpaint, LinearMeasurement
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mfa import MNISTMFATarget

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
IMAGES = GaussianTarget((3, 8, 8), std=0.5, decay=2.0)
ANCESTRAL = "pc[predictor=ddim[eta=1],grid=logsnr,steps={}]"
KNOWN = Inpaint().observe(torch.zeros(3, 2))
RHO, Y = 0.8, 1.5  # two standard normal coordinates with this correlation, the first of which is known


def visits(levels, rounds, jump):
    """The levels that RePaint visits, from n - 1 down to clean data, -1: from 0, jump, 2 jump, ... it goes up again."""
    left = dict.fromkeys(range(0, levels - jump, jump), rounds - 1)
    seen, at = [levels - 1], levels - 1
    while at >= 0:
        up = left.get(at, 0) > 0
        if up:
            left[at] -= 1
        for _ in range(jump if up else 1):
            at += 1 if up else -1
            seen.append(at)
    return seen


def chain(sde, steps, rounds, jump=1):
    """Mean and variance of x_2 that replacement ends with: ancestral steps are affine, and so is what comes between.

    D = alpha C (alpha^2 C + sigma^2)^-1 x denoises. A step to alpha', sigma', with a = alpha / alpha' and
    G^2 = sigma^2 - a^2 sigma'^2, has the mean (a sigma'^2 x + alpha' G^2 D) / sigma^2 and the variance
    G^2 sigma'^2 / sigma^2.
    """
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
    eye, hidden = torch.eye(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    alphas, sigmas = (part.tolist() for part in sde.scales(create("grids", "logsnr").times(sde, steps)))

    def replaced(mean, spread, alpha, sigma):
        known = torch.tensor([alpha * Y, 0.0], dtype=torch.float64)
        return known + hidden * mean, torch.outer(hidden, hidden) * spread + sigma**2 * torch.diag(1 - hidden)

    mean, spread = replaced(torch.zeros(2), sde.prior.std**2 * eye, alphas[0], sigmas[0])
    for now, then in pairwise(visits(steps, rounds, jump)):
        high, low = steps - 1 - max(now, then), steps - 1 - min(now, then)
        alpha, ahead, sigma, less = alphas[high], alphas[low], sigmas[high], sigmas[low]
        a = alpha / ahead
        added = sigma**2 - a**2 * less**2
        denoise = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        step = (a * less**2 * eye + ahead * added * denoise) / sigma**2
        if now < then:
            mean, spread = a * mean, a**2 * spread + added * eye
            continue
        mean, spread = step @ mean, step @ spread @ step.T
        final = float(mean[1]), float(spread[1, 1])  # of the noise-free mean
        mean, spread = replaced(mean, spread + added * less**2 / sigma**2 * eye, ahead, less)
    return final


class TestLaw:
    @pytest.mark.parametrize(("rounds", "jump"), [(1, 1), (5, 1), (4, 10)])
    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_of_a_gaussian_is_that_of_the_affine_chain(self, sde, rounds, jump):
        n, target = 3000, GaussianTarget((2,), covariance=((1, RHO), (RHO, 1)))
        mean, variance = chain(sde, 40, rounds, jump)
        y, steps = torch.tensor([[Y, math.nan]]).expand(n, 2), ANCESTRAL.format(40)
        x = draw(target, Inpaint(), y, steps, sde, rounds, jump=jump).x
        y = x[:, 1].double()
        assert abs(float(y.mean()) - mean) < 4 * math.sqrt(variance / n)
        assert abs(float(y.var()) - variance) < 4 * variance * math.sqrt(2 / n)

    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_of_a_gaussian_stays_off_the_conditional_one_however_fine_the_grid(self, sde):
        """N(rho y, 1 - rho^2) is the truth: steps do not lead there, rounds lead towards it."""
        coarse, fine = (chain(sde, steps, 1)[0] - RHO * Y for steps in (100, 800))
        assert fine < -0.2
        assert abs(fine - coarse) < 0.1 * abs(fine)
        off = [abs(chain(sde, 100, rounds)[0] - RHO * Y) for rounds in (1, 4, 16, 64)]
        assert all(more < 0.8 * few for few, more in pairwise(off))

    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_is_exact_where_the_parts_are_independent(self, sde):
        x = POINT.expand(3000, 2)
        found = draw(APART, Inpaint(), x, "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=100]", sde).x[:, 1:]
        assert float(deviations(found, given(APART.mixture, Inpaint().observe(x)).law).abs().max()) < 4

    @pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
    def test_of_a_mixture_is_not_the_conditional_one_and_rounds_lead_towards_it(self, sde):
        """The weight of x_2 > 0: short of the truth, and nearer with 40 rounds, each by more than 4 standard errors."""
        x = POINT.expand(1000, 2)
        law = given(CROSS.mixture, Inpaint().observe(x)).law
        truth = float(law.modes()[law.means[:, 0] > 0].sum())
        few, many = (
            float((draw(CROSS, Inpaint(), x, ANCESTRAL.format(30), sde, rounds).x[:, 1] > 0).double().mean())
            for rounds in (1, 40)
        )
        chance = 0.5 / math.sqrt(len(x))  # the most that a share's standard error can be
        assert few < truth - 4 * chance
        assert many > few + 4 * chance

    @pytest.mark.parametrize(
        "known", [Inpaint(), Colorize(), LinearMeasurement()], ids=["inpaint", "colorize", "linear"]
    )
    def test_of_images_is_not_the_conditional_one(self, known):
        x = correlated().sample(2, seed=7)[1:].expand(500, 3, 2, 2)
        exact = given(correlated(), known.observe(x))
        found = exact.unknown(draw(correlated(), known, x, ANCESTRAL.format(40)).x)
        assert float(deviations(found, exact.law).abs().max()) > 4


class TestUnknownPart:
    def test_comes_out_denoised(self):
        """N(0, s^2) coordinates with s = 1e-3, far below sigma(t_min): what is left of noise is s, not sigma."""
        target, x, step = GaussianTarget((2,), std=1e-3), torch.zeros(2000, 2), "pc[steps=200,denoise={}]"
        clean, noisy = (draw(target, Inpaint(), x, step.format(d), VESDE()).x for d in ("true", "false"))
        assert float(noisy[:, 1].std()) > 5e-3
        assert float(clean[:, 1].std()) < 1e-3

    def test_of_digits_looks_like_digits(self):
        """Completed digits are nearly as typical as exact ones: -log p a dimension, in nats."""
        target = MNISTMFATarget()
        x = target.sample(8, seed=5)
        drawn = draw(target, Inpaint(), x, ANCESTRAL.format(100)).x
        gap = (target.log_prob(x) - target.log_prob(drawn)).mean() / 784
        assert abs(float(gap)) < 0.15

    def test_samples_do_not_depend_on_the_batch(self):
        x, condition = IMAGES.sample(7), Inpaint(mask="random")
        whole, parts = (draw(IMAGES, condition, x, "pc[steps=5]", rounds=2, batch_size=size).x for size in (None, 3))
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("rounds", "jump"), [(3, 1), (3, 2), (2, 4), (1, 3)])
    def test_goes_through_the_published_levels(self, rounds, jump):
        seen, times = [], create("grids", "uniform").times(VPSDE(), 9).tolist()

        class Heard(WrappedScore):
            def evaluate(self, x, level):
                seen.append(8 - times.index(level.t))
                return self.model.score(x, level)

        sampler = ConditionedSampler(create("samplers", "pc[steps=9,grid=uniform]"), KNOWN, rounds, jump)
        sample(Heard(ExactScore(CROSS, VPSDE())), sampler, 3)
        assert seen == [now for now, then in pairwise(visits(9, rounds, jump)) if then < now]

    def test_rounds_are_counted(self):
        """Each has its steps of the corrector; the step to the data is taken once."""
        found = draw(CROSS, Inpaint(), torch.zeros(3, 2), "pc[steps=7,corrector=langevin]", rounds=3)
        assert found.nfe == (6 * 3 + 1) * 2

    @pytest.mark.parametrize("sde", ["rectified_flow", "trigflow", "cosine"])
    def test_goes_back_to_where_there_is_no_signal(self, sde):
        """The first step is repeated from noise that is new; the law stays right where replacement is exact."""
        x, steps = POINT.expand(1000, 2), "pc[predictor=dpmpp_2m,grid=logsnr,steps=60]"
        found = draw(APART, Inpaint(), x, steps, create("sdes", sde), rounds=3).x[:, 1:]
        assert float(deviations(found, given(APART.mixture, Inpaint().observe(x)).law).abs().max()) < 4

    @pytest.mark.parametrize(
        ("sampler", "words"),
        [
            (
                "pc[steps=10]",
                "jump=10 needs over 10 steps, got 10: take more, a smaller jump, or rounds=1",
            ),
            (
                "paradigms[steps=20]",
                "acts after every predictor and corrector step, and the sampler takes none in turn: take pc",
            ),
            (
                "adaptive_sde",
                "acts after every predictor and corrector step, and the sampler takes none in turn: take pc",
            ),
        ],
    )
    def test_what_cannot_go_back_says_so(self, sampler, words):
        sampler = ConditionedSampler(create("samplers", sampler), KNOWN, 2, 10)
        assert words in sampler.skip(VPSDE())

    @pytest.mark.parametrize("predictor", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "dpmpp_2m_sde"])
    def test_rounds_go_with_a_past(self, predictor):
        """A state that was noised again has none: the law stays right where replacement is exact."""
        x = POINT.expand(1000, 2)
        found = draw(APART, Inpaint(), x, f"pc[predictor={predictor},grid=logsnr,steps=60]", rounds=3).x[:, 1:]
        assert float(deviations(found, given(APART.mixture, Inpaint().observe(x)).law).abs().max()) < 4
