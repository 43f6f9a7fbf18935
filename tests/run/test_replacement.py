"""The distribution that replacement samples, in closed form; in some cases it is the conditional one."""

import math
from itertools import pairwise

import pytest
import torch
from conditional_law import given
from exact_conditional import APART, CROSS, POINT, correlated, deviations, draw
from scoresde_core import create
from scoresde_plugins.conditions.known import Colorize, Inpaint, LinearMeasurement
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mfa import MNISTMFATarget

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
IMAGES = GaussianTarget((3, 8, 8), std=0.5, decay=2.0)
ANCESTRAL = "pc[predictor=ddim[eta=1],grid=logsnr,steps={}]"
RHO, Y = 0.8, 1.5  # two standard normal coordinates with this correlation, the first of which is known


def chain(sde, steps, rounds):
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
    for (alpha, ahead), (sigma, less) in zip(pairwise(alphas), pairwise(sigmas), strict=True):
        a = alpha / ahead
        added = sigma**2 - a**2 * less**2
        denoise = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        step = (a * less**2 * eye + ahead * added * denoise) / sigma**2
        for round_ in range(rounds):
            mean, spread = step @ mean, step @ spread @ step.T
            final = float(mean[1]), float(spread[1, 1])  # of the noise-free mean
            mean, spread = replaced(mean, spread + added * less**2 / sigma**2 * eye, ahead, less)
            if round_ + 1 < rounds:
                mean, spread = a * mean, a**2 * spread + added * eye
    return final


class TestLaw:
    @pytest.mark.parametrize("rounds", [1, 5])
    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_of_a_gaussian_is_that_of_the_affine_chain(self, sde, rounds):
        n, target = 3000, GaussianTarget((2,), covariance=((1, RHO), (RHO, 1)))
        mean, variance = chain(sde, 40, rounds)
        x = draw(target, Inpaint(), torch.tensor([[Y, math.nan]]).expand(n, 2), ANCESTRAL.format(40), sde, rounds).x
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

    def test_rounds_are_counted(self):
        found = draw(CROSS, Inpaint(), torch.zeros(3, 2), "pc[steps=7,corrector=langevin]", rounds=3)
        assert found.nfe == 7 * (3 + 1)

    @pytest.mark.parametrize("predictor", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "dpmpp_2m_sde"])
    def test_rounds_go_with_a_past(self, predictor):
        """A state that was noised again has none: the law stays right where replacement is exact."""
        x = POINT.expand(1000, 2)
        found = draw(APART, Inpaint(), x, f"pc[predictor={predictor},grid=logsnr,steps=60]", rounds=3).x[:, 1:]
        assert float(deviations(found, given(APART.mixture, Inpaint().observe(x)).law).abs().max()) < 4
