"""Posterior sampling: the exact posterior against quadrature, methods against their formulas, samples against truth."""

import math

import numpy as np
import pytest
import torch
from conditional_law import given
from exact_conditional import correlated, deviations
from exact_posterior import affine, law_of
from operations import Results
from scoresde import ConditionedSampler, ExactScore, Level, Schedule, create, sample
from scoresde_core.errors import ScoreSDEError, UsageError
from scoresde_plugins.conditions.known import Colorize, Inpaint, LinearMeasurement
from scoresde_plugins.posterior.ddnm import DDNM
from scoresde_plugins.posterior.ddrm import DDRM
from scoresde_plugins.posterior.diffpir import DiffPIR
from scoresde_plugins.posterior.dps import DPS
from scoresde_plugins.posterior.dsg import DSG
from scoresde_plugins.posterior.exact import ExactPosterior, PosteriorLaw
from scoresde_plugins.posterior.method import GuidedScore, Look
from scoresde_plugins.posterior.mmps import MMPS
from scoresde_plugins.posterior.pigdm import PiGDM
from scoresde_plugins.posterior.tmpd import TMPD
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mixture2d import Mixture2DTarget
from scoresde_run.commands.shell import main

R = 0.3
LEVELS = [Level(0.1, 0.98, 0.2), Level(0.5, 0.6, 0.8), Level(0.5, 1.0, 3.0)]
RING = Mixture2DTarget(layout="ring", components=3, radius=1.2, std=0.4, weights=(0.5, 0.3, 0.2))
CLASSES = {"exact": ExactPosterior, "pigdm": PiGDM, "tmpd": TMPD, "mmps": MMPS, "diffpir": DiffPIR}
STEPPED = {"dps": DPS, "dsg": DSG, "ddnm": DDNM, "ddrm": DDRM}
CLASSES |= STEPPED


@pytest.fixture
def matrix(tmp_path):
    """A function that gives the text of an operator with these rows."""

    def made(rows):
        np.save(tmp_path / "m.npy", np.asarray(rows, dtype=float))
        return f"matrix[path={tmp_path}/m.npy]"

    return made


def problem(operator, noise=R):
    return create("conditions", f"linear[operator='{operator}',noise={noise},smallest=1e-9]")


def method(name, condition, **more):
    """A method of a condition that is an object, and not typed."""
    return CLASSES[name](condition=condition, **more)


def gaussian(dim=5, seed=0):
    """A Gaussian target of strongly correlated entries, its mean and covariance."""
    root = np.random.default_rng(seed).normal(size=(dim, dim)) / math.sqrt(dim)
    covariance = root @ root.T + 0.05 * np.eye(dim)
    mean = np.linspace(-0.5, 0.7, dim)
    return GaussianTarget((dim,), mean=tuple(mean), covariance=tuple(map(tuple, covariance))), mean, covariance


def bayes(mean, covariance, a, r, y):
    """Mean and covariance of N(mean, covariance) given y = a x + r z, in information form."""
    precision = np.linalg.inv(covariance) + a.T @ a / r**2
    spread = np.linalg.inv(precision)
    return spread @ (np.linalg.solve(covariance, mean) + a.T @ y / r**2), spread


class TestExactPosterior:
    def plane(self):
        """Points of a grid (P, 2), and the posterior's weights (P,) given x_1 + 2 x_2 = 0.4 up to noise R."""
        axis = torch.linspace(-4, 4, 601, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis)
        likelihood = -0.5 * ((points @ torch.tensor([1.0, 2.0], dtype=torch.float64) - 0.4) / R).square()
        return points, (RING.log_prob(points) + likelihood).softmax(0)

    def test_moments_are_those_of_quadrature(self, matrix):
        known = problem(matrix([[1, 2]])).given(torch.tensor([[0.4]], dtype=torch.float64), (2,))
        law, (points, weights) = law_of(RING.mixture, known), self.plane()
        mean = weights @ points
        covariance = (points - mean).T @ ((points - mean) * weights.unsqueeze(1))
        torch.testing.assert_close(law.moments(), (mean, covariance), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(law.modes(), weights @ RING.responsibilities(points), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("level", LEVELS, ids=lambda level: f"{level.alpha}")
    def test_score_is_that_of_quadrature(self, matrix, level):
        known = problem(matrix([[1, 2]])).given(torch.tensor([[0.4]], dtype=torch.float64), (2,))
        points, weights = self.plane()
        x = torch.tensor([[0.3, -0.2], [1.5, 0.8], [-2.0, 1.0]], dtype=torch.float64)
        square = (x.unsqueeze(1) - level.alpha * points).square().sum(2) / level.sigma**2
        denoised = (weights.log() - 0.5 * square).softmax(1) @ points
        found = PosteriorLaw(RING.mixture, known).score(x, level, known.values.expand(3, -1))
        torch.testing.assert_close(found, (level.alpha * denoised - x) / level.sigma**2, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("level", LEVELS, ids=lambda level: f"{level.alpha}")
    def test_components_of_other_covariances(self, level):
        """Their posterior as a mixture of factor analysers, whose score is held to its density elsewhere."""
        x = correlated().sample(3, seed=1).double()
        known = create("conditions", "linear[noise=0.3]").observe(x)
        found = PosteriorLaw(correlated(), known).score(x, level, known.values)
        for row in range(3):
            expected = law_of(correlated(), known, row).score(x[row : row + 1], level)
            torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-7, atol=1e-8)

    def test_no_weight_is_denormal(self, matrix):
        known = problem(matrix([[1, 2]])).given(torch.tensor([[0.4]]), (2,))
        law, x = PosteriorLaw(RING.to("cpu").mixture, known), 6 * torch.randn(500, 2)
        with Results() as results:
            law.score(x, Level(0.1, 1.0, 0.1), known.values.expand(500, -1))
        assert results.denormal == 0

    def test_of_a_gaussian_is_bayes_rule_for_every_observation(self, matrix):
        target, mean, covariance = gaussian()
        a = np.random.default_rng(1).normal(size=(3, 5))
        y = np.random.default_rng(2).normal(size=(4, 3))
        known = problem(matrix(a)).given(torch.from_numpy(y), (5,))
        law = PosteriorLaw(target.as_mixture(), known)
        means = law.given(known.values)[1][:, 0].numpy()
        for row in range(4):
            expected, spread = bayes(mean, covariance, a, R, y[row])
            np.testing.assert_allclose(means[row], expected, atol=1e-9)
            np.testing.assert_allclose((law.bases[0] * law.variances[0]) @ law.bases[0].T, spread, atol=1e-9)

    def test_a_level_per_row_and_chosen_rows(self, matrix):
        target = gaussian()[0]
        known = problem(matrix(np.eye(5)[:2])).given(torch.randn(3, 2).double(), (5,))
        observed = method("exact", problem(matrix(np.eye(5)[:2])), target=target).given(known)
        score = observed.guide(ExactScore(target, VPSDE()))
        x, alpha = torch.randn(3, 5).double(), torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64).reshape(3, 1)
        level = Level(alpha, alpha, (1 - alpha**2).sqrt())
        whole = score.score(x, level)
        for row in range(3):
            at = Level(0.5, float(level.alpha[row]), float(level.sigma[row]))
            one = score.select(torch.tensor([row])).score(x[row : row + 1], at)
            torch.testing.assert_close(one[0], whole[row])

    @pytest.mark.parametrize("condition", [Inpaint(mask="top"), Colorize(), LinearMeasurement()], ids=repr)
    def test_without_noise_is_the_conditional_law(self, condition):
        known = condition.observe(correlated().sample(1, seed=3).double())
        weights, means = PosteriorLaw(correlated(), known).given(known.values)
        expected = given(correlated(), known)
        torch.testing.assert_close(weights[0].exp(), expected.law.modes(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(expected.unknown(means.reshape(-1, 3, 2, 2)), expected.law.means)
        torch.testing.assert_close(expected.events(expected.unknown(means.reshape(-1, 3, 2, 2))).flatten(1), means[0])

    @pytest.mark.parametrize("sde", [VPSDE(), VESDE(), SubVPSDE(), create("sdes", "rectified_flow")], ids=repr)
    def test_samples_of_every_process(self, matrix, sde):
        self.check(matrix, sde, "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=60]")

    @pytest.mark.parametrize("sampler", ["ode", "adaptive_sde[rel_tol=0.01]", "pc[corrector=langevin,steps=300]"])
    def test_samples_of_every_sampler(self, matrix, sampler):
        self.check(matrix, VPSDE(), sampler)

    def check(self, matrix, sde, sampler):
        condition = problem(matrix([[1, 2]]))
        known = condition.given(torch.full((2000, 1), 0.4).double(), (2,))
        observed = method("exact", condition, target=RING).given(known)
        x = sample(ExactScore(RING, sde), ConditionedSampler(create("samplers", sampler), observed), 2000).x
        assert float(deviations(x, law_of(RING.mixture, known)).abs().max()) < 4


class TestFormulas:
    """Of a Gaussian all is linear: independent matrices in the space of y."""

    A = np.random.default_rng(5).normal(size=(3, 5))
    Y = np.array([0.4, -0.3, 1.0])
    LEVEL = Level(0.4, 0.7, 0.6)

    @pytest.fixture
    def seen(self, matrix):
        target, mean, covariance = gaussian()
        alpha, sigma, x = 0.7, 0.6, np.linspace(-1, 1, 5)
        marginal = alpha**2 * covariance + sigma**2 * np.eye(5)
        denoised = mean + alpha * covariance @ np.linalg.solve(marginal, x - alpha * mean)
        spread = covariance - alpha**2 * covariance @ np.linalg.solve(marginal, covariance)
        condition = problem(matrix(self.A))
        known = condition.given(torch.from_numpy(self.Y)[None], (5,))
        return ExactScore(target, VPSDE()), condition, known, x, denoised, spread

    def shift(self, name, seen, **more):
        model, condition, known, x, denoised, _ = seen
        observed = method(name, condition, **more).given(known)
        score = observed.guide(model).score(torch.from_numpy(x)[None], self.LEVEL)[0].numpy()
        return (x + 0.6**2 * score) / 0.7 - denoised

    def expected(self, seen, outer, inner):
        *_, denoised, _ = seen
        return outer @ self.A.T @ np.linalg.solve(inner + R**2 * np.eye(3), self.Y - self.A @ denoised)

    def test_pigdm(self, seen):
        v = 0.6**2 / (0.7**2 + 0.6**2)
        expected = self.expected(seen, seen[-1], v * self.A @ self.A.T)
        np.testing.assert_allclose(self.shift("pigdm", seen), expected, atol=1e-10)

    @pytest.mark.parametrize(("weight", "ratio"), [(1.0, 1.0), (3.0, 3.0)])
    def test_diffpir(self, seen, weight, ratio):
        v = 0.6**2 / 0.7**2 / ratio
        expected = self.expected(seen, v * np.eye(5), v * self.A @ self.A.T)
        np.testing.assert_allclose(self.shift("diffpir", seen, weight=weight), expected, atol=1e-10)

    def test_mmps_is_bayes_rule_once_it_has_solved(self, seen):
        expected = self.expected(seen, seen[-1], self.A @ seen[-1] @ self.A.T)
        rest = self.Y - self.A @ seen[-2]
        once = (
            rest @ rest / (rest @ (self.A @ seen[-1] @ self.A.T + R**2 * np.eye(3)) @ rest) * seen[-1] @ self.A.T @ rest
        )
        np.testing.assert_allclose(self.shift("mmps", seen, iterations=1), once, atol=1e-10)
        off = [np.abs(self.shift("mmps", seen, iterations=k) - expected).max() for k in (1, 2, 3, 9)]
        assert off[0] > 2 * off[1] > 1e-3
        assert max(off[2:]) < 1e-9
        np.testing.assert_allclose(self.shift("exact", seen, target=seen[0].target), expected, atol=1e-9)

    def test_tmpd_takes_row_sums(self, matrix):
        """In coefficients, which for a mask are entries: of two, and of one, where it is Bayes' rule."""
        model = ExactScore(gaussian()[0], VPSDE())
        mean, covariance = gaussian()[1:]
        x = np.linspace(-1, 1, 5)
        marginal = 0.7**2 * covariance + 0.6**2 * np.eye(5)
        denoised = mean + 0.7 * covariance @ np.linalg.solve(marginal, x - 0.7 * mean)
        spread = covariance - 0.7**2 * covariance @ np.linalg.solve(marginal, covariance)
        for count in (1, 2):
            condition = problem("mask") if count == 2 else problem(matrix(np.eye(5)[:1]))
            known = condition.given(torch.tensor([[0.4, -0.3]], dtype=torch.float64)[:, :count], (5,))
            score = method("tmpd", condition).given(known).guide(model).score(torch.from_numpy(x)[None], self.LEVEL)
            rows = spread[:count, :count].sum(1).clip(0)
            expected = spread[:, :count] @ ((np.array([0.4, -0.3])[:count] - denoised[:count]) / (rows + R**2))
            found = (x + 0.6**2 * score[0].numpy()) / 0.7 - denoised
            np.testing.assert_allclose(found, expected, atol=1e-10)

    def test_tmpd_has_no_variance_below_zero(self):
        """Of entries of deviations 0.3 and 1 and correlation -0.9, the first sum would be negative."""
        covariance = np.array([[0.09, -0.27], [-0.27, 1.0]])
        target = GaussianTarget((2, 1, 2), covariance=tuple(map(tuple, np.kron(covariance, np.eye(2)))))
        known = problem("mask").given(torch.tensor([[[0.4], [-0.3]]], dtype=torch.float64), (2, 1, 2))
        x = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
        score = method("tmpd", problem("mask")).given(known).guide(ExactScore(target, VPSDE())).score(x, self.LEVEL)
        marginal = 0.7**2 * covariance + 0.6**2 * np.eye(2)
        spread = covariance - 0.7**2 * covariance @ np.linalg.solve(marginal, covariance)
        assert spread.sum(1)[0] < 0
        expected = spread @ (np.array([0.4, -0.3]) / (spread.sum(1).clip(0) + R**2))
        np.testing.assert_allclose(score[0, :, 0, 0].numpy() * 0.6**2 / 0.7, expected, atol=1e-10)

    def look(self, name, seen, **more):
        model, condition, known, x, *_ = seen
        observed = method(name, condition, **more).given(known)
        return observed.method, Look(model, torch.from_numpy(x)[None], self.LEVEL, observed)

    def test_dps_moves_down_the_norm(self, seen):
        *_, denoised, spread = seen
        dps, look = self.look("dps", seen, scale=0.4)
        start = torch.zeros(1, 5).double()
        moved, mean = dps.settle(look, None, start, start + 1, None)
        off = self.Y - self.A @ denoised
        expected = 0.4 * (0.7 / 0.6**2) * spread @ self.A.T @ off / np.linalg.norm(off)
        np.testing.assert_allclose(moved[0].numpy(), expected, atol=1e-10)
        np.testing.assert_allclose(mean[0].numpy(), expected + 1, atol=1e-10)

    def test_dsg_turns_the_noise_of_a_step(self, seen):
        *_, denoised, spread = seen
        dsg, look = self.look("dsg", seen, rate=0.3)
        step = Schedule(VPSDE(), torch.tensor([1.0, 0.5, 0.2, 0.0]))[1]
        z = torch.linspace(-1, 2, 5).double().reshape(1, 5)
        ahead, mean, _ = look.step(create("predictors", "ddim[eta=1]"), step, seen[0], z.clone, ())
        moved, kept = dsg.settle(look, step, ahead, mean, z.clone)
        std = step.next.sigma * math.sqrt(
            1 - (step.now.alpha / step.next.alpha * step.next.sigma / step.now.sigma) ** 2
        )
        np.testing.assert_allclose((ahead - mean)[0].numpy(), std * z[0].numpy(), atol=1e-9)
        down = spread @ self.A.T @ (self.Y - self.A @ denoised)
        down *= math.sqrt(5) * std / np.linalg.norm(down)
        along = 0.7 * std * z[0].numpy() + 0.3 * down
        expected = mean[0].numpy() + math.sqrt(5) * std * along / np.linalg.norm(along)
        np.testing.assert_allclose(moved[0].numpy(), expected, atol=1e-9)
        assert torch.equal(kept, mean)

    @pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 2.0])
    def test_ddnm_and_ddrm_of_an_entry(self, noise):
        """The formulas of the papers for one number, of noise above and below that of the step."""
        target = GaussianTarget((2,), std=(0.8, 0.5))
        condition = create("conditions", f"linear[operator=mask,noise={noise}]")
        known = condition.given(torch.tensor([[0.9]], dtype=torch.float64), (2,))
        step = Schedule(VPSDE(), torch.tensor([1.0, 0.5, 0.2, 0.0]))[1]
        (a, s), (an, sn) = ((level.alpha, level.sigma) for level in (step.now, step.next))
        x = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
        denoised = a * 0.64 / (a**2 * 0.64 + s**2) * 0.3
        z = torch.tensor([[1.7, 9.0]], dtype=torch.float64)
        for name in ("ddnm", "ddrm"):
            observed = method(name, condition).given(known)
            look = Look(ExactScore(target, VPSDE()), x, step.now, observed)
            drawn, mean = observed.method.settle(look, step, x + 5, x + 6, z.clone)
            assert (float(drawn[0, 1]), float(mean[0, 1])) == (float(x[0, 1] + 5), float(x[0, 1] + 6))
            if name == "ddnm":
                beta = s**2 - (a / an) ** 2 * sn**2
                std, pull, keep = sn * math.sqrt(beta) / s, an * beta / s**2, a / an * sn**2 / s**2
                part = 1.0 if std >= pull * noise else std / (pull * noise)
                centre = pull * (denoised + part * (0.9 - denoised)) + keep * 0.3
                spread = math.sqrt(max(std**2 - (pull * part * noise) ** 2, 0))
            elif sn / an >= noise:
                centre, spread = an * 0.9, an * math.sqrt((sn / an) ** 2 - noise**2)
            else:
                ratio = sn / an
                centre = an * (denoised + math.sqrt(1 - 0.85**2) * ratio * (0.9 - denoised) / noise)
                spread = an * 0.85 * ratio
            assert float(mean[0, 0]) == pytest.approx(centre, abs=1e-12)
            assert float(drawn[0, 0]) == pytest.approx(centre + 1.7 * spread, abs=1e-7)


class TestSamples:
    @pytest.mark.parametrize("name", ["exact", "mmps", "tmpd"])
    def test_of_a_gaussian_converge_to_the_posterior(self, matrix, name):
        """Deterministic samplers map the prior affinely: mean and covariance without chance, of second order."""
        target, mean, covariance = gaussian()
        rows = np.eye(5)[:1] if name == "tmpd" else TestFormulas.A
        y = TestFormulas.Y[: len(rows)]
        condition = problem(matrix(rows))
        known = condition.given(torch.from_numpy(y).expand(6, -1), (5,))
        more = {"exact": {"target": target}, "mmps": {"iterations": 3}, "tmpd": {}}[name]
        observed = method(name, condition, **more).given(known)
        expected, spread = bayes(mean, covariance, rows, R, y)
        off = []
        for steps in (20, 40, 80, 160):
            sampler = create("samplers", f"pc[predictor=dpmpp_2m,grid=logsnr,steps={steps}]")
            truth = torch.from_numpy(expected), torch.from_numpy(spread)
            centre, found = affine(ExactScore(target, VPSDE()), sampler, observed, *truth)
            off.append(max(np.abs(centre.numpy() - expected).max(), np.abs(found.numpy() - spread).max()))
        assert off[-1] < 1e-3
        assert off[0] > 14 * off[2]
        assert off[1] > 14 * off[3]

    @pytest.mark.parametrize(
        ("text", "low", "high"),
        [("dps[scale=0.1]", 0.01, 0.04), ("ddnm", 0.001, 0.01), ("ddrm", 0.05, 0.15), ("pigdm", 0.92, 1.08)],
    )
    def test_spread_of_what_is_measured(self, text, low, high):
        """Of a standard normal entry, with noise 0.5: of its posterior variance 0.2 some leave a hundredth.

        PiGDM takes data for standard normal, and here they are.
        """
        target = GaussianTarget((2,))
        condition = create("conditions", "linear[operator=mask,noise=0.5]")
        observed = create("conditions", text).given(condition.given(torch.full((4000, 1), 0.5).double(), (2,)))
        sampler = create("samplers", "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=100]")
        x = sample(ExactScore(target, VPSDE()), ConditionedSampler(sampler, observed), 4000).x
        assert low < float(x[:, 0].var()) / 0.2 < high
        assert float(x[:, 1].var()) == pytest.approx(1.0, rel=0.08)

    @pytest.mark.parametrize(
        ("text", "products"),
        [("exact[target='gaussian[shape=[4]]']", 0), ("pigdm", 1), ("tmpd", 2), ("mmps[iterations=2]", 3),
         ("diffpir", 0), ("dps", 1), ("dsg", 1), ("ddnm", 0), ("ddrm", 0)],
    )  # fmt: skip
    @pytest.mark.parametrize("predictor", ["ddim[eta=1]", "dpmpp_2m_sde", "heun[s_churn=1]", "unipc"])
    def test_cost_is_counted(self, text, products, predictor):
        if text == "dsg" and predictor == "unipc":
            return  # refused
        target, condition = GaussianTarget((4,)), create("conditions", text)
        observed = condition.observe(target.sample(6))
        sampler = ConditionedSampler(create("samplers", f"pc[predictor={predictor},steps=10]"), observed)
        drawn = sample(ExactScore(target, VPSDE()), sampler, 6, batch_size=4)
        plain = sample(ExactScore(target, VPSDE()), sampler.sampler, 6).nfe
        if text in STEPPED:
            assert plain <= drawn.nfe <= plain + 10  # a predictor that does not look where a step starts
            assert observed.products[0] == 60 * products
        else:
            assert drawn.nfe == plain
            assert observed.products[0] == 6 * plain * products

    def test_mmps_of_a_blur_that_hardly_sees_some_directions(self):
        """Singular values down to 1e-9: few iterations suffice, as the noise bounds what y can tell."""
        target = GaussianTarget((1, 8, 8), decay=3.0)
        condition = create("conditions", "linear[operator=blur[width=1],noise=0.3,smallest=1e-9]")
        known = condition.observe(target.sample(1).double()).select(torch.zeros(600, dtype=torch.long))
        sampler = create("samplers", "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=50]")
        observed = method("mmps", condition, iterations=3).given(known)
        x = sample(ExactScore(target, VPSDE()), ConditionedSampler(sampler, observed), 600).x.flatten(1)
        mean, covariance = law_of(target.as_mixture(), known).moments()
        assert float(x.var(0).sum() / covariance.trace()) == pytest.approx(1, abs=0.05)
        assert float((x.mean(0) - mean).square().sum() / covariance.trace()) < 0.02

    def test_what_is_known_exactly_is_in_the_samples(self):
        x = correlated().sample(5, seed=1)
        for name in ("ddnm", "ddrm"):
            for condition in (Inpaint(), Colorize(), LinearMeasurement()):
                observed = method(name, condition).observe(x)
                sampler = ConditionedSampler(create("samplers", "pc[steps=8]"), observed)
                drawn = sample(ExactScore(correlated(), VPSDE()), sampler, 5).x
                known = condition.observe(x)
                torch.testing.assert_close(known.seen(drawn), known.values.expand(5, 3, 2, 2), rtol=0, atol=1e-5)

    def test_rounds_and_start_are_served(self):
        x = RING.sample(6)
        for name in [*CLASSES][1:]:
            sampler = ConditionedSampler(create("samplers", "pc[steps=5]"), create("conditions", name).observe(x), 3)
            drawn = sample(ExactScore(RING, VPSDE()), sampler, 6)
            assert drawn.nfe == 4 * 3 + 1
            assert bool(drawn.x.isfinite().all())

    def test_steps_from_no_signal_are_those_of_the_predictor(self):
        """A rectified flow starts where alpha = 0, and no method divides by it."""
        for name in [*CLASSES][1:]:
            conditioned = ConditionedSampler(
                create("samplers", "pc[predictor=ddim[eta=1],steps=5]"),
                create("conditions", name).observe(RING.sample(6)),
            )
            drawn = sample(ExactScore(RING, create("sdes", "rectified_flow")), conditioned, 6)
            assert bool(drawn.x.isfinite().all())


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (
                "tmpd[condition=inpaint]",
                r"TMPD divides by the noise of y, and Inpaint has none: give linear\[noise=R\]",
            ),
            ("tmpd[condition=linear]", r"TMPD divides by the noise of y, and LinearMeasurement has none"),
            ("dps[condition='class[target=mixture2d]']", "as inpaint does, got ClassCondition"),
            ("mmps[condition=dps]", "as inpaint does, got DPS"),
            ("smcdiff[condition=mmps]", "as inpaint does, got MMPS"),
            ("exact[target='double_well']", "double_well"),
            ("mmps[iterations=0]", "iterations"),
            ("dsg[rate=0]", "rate"),
            ("repaint[rounds=0]", "rounds"),
            (
                "smcdiff[condition=linear[operator=phase]]",
                r"SMCDiff needs a linear operator, unlike PhaseOperator\(overs",
            ),
            *(
                (
                    f"{name}[condition=linear[operator=jpeg,noise=0.1]]".replace("][", ","),
                    r"needs a linear operator, .*: take dps, dsg or tds",
                )
                for name in ("mmps", "tmpd", "pigdm", "diffpir", "ddnm", "ddrm", "repaint", "exact[target=mixture2d]")
            ),
        ],
    )
    def test_is_one_line(self, text, words):
        with pytest.raises(ScoreSDEError, match=words) as caught:
            create("conditions", text)
        assert "\n" not in str(caught.value)

    def test_events_that_do_not_fit(self):
        exact = create("conditions", "exact[target=mixture2d]")
        assert exact.skip((2,)) is None
        assert exact.skip((1, 8, 8)) == "the target has events of shape [2], not [1, 8, 8]: take that of the model"
        wide = create("conditions", "exact[target=gaussian[shape=[2049]]]")
        assert "at most 2048 entries, not 2049" in wide.skip((2049,))
        with pytest.raises(ValueError, match="at most 2048 entries"):
            wide.observe(torch.zeros(1, 2049))
        assert "blocks of 3 do not tile" in create(
            "conditions", "mmps[condition=linear[operator=average[factor=3]]]"
        ).skip((1, 8, 8))

    def test_a_measurement_of_another_length(self, matrix):
        with pytest.raises(ValueError, match=r"MatrixOperator measures \[1\] of an event \[2\], not \[3\]"):
            problem(matrix([[1, 2]])).given(torch.zeros(4, 3).double(), (2,))

        with pytest.raises(
            ValueError, match=r"PhaseOperator measures \[1, 8, 5\] of an event \[1, 4, 4\], not \[1, 4\]"
        ):
            create("conditions", "linear[operator=phase]").given(torch.zeros(2, 1, 4), (1, 4, 4))

    def test_steps_without_noise_have_nothing_to_turn(self):
        conditioned = ConditionedSampler(
            create("samplers", "pc[predictor=ddim]"), create("conditions", "dsg").observe(RING.sample(2))
        )
        with pytest.raises(
            UsageError, match=r"DSG turns the noise of steps, and DDIMPredictor has none: take ddim\[eta=1"
        ):
            sample(ExactScore(RING, VPSDE()), conditioned, 2)

    @pytest.mark.parametrize("operator", ["jpeg[block=2]", "phase"])
    def test_an_operator_that_is_not_linear_needs_a_method(self, operator):
        target = GaussianTarget((1, 4, 4))
        conditioned = ConditionedSampler(
            create("samplers", "pc[steps=3]"),
            create("conditions", f"linear[operator={operator}]").observe(target.sample(2)),
        )
        with pytest.raises(UsageError, match=r"is not linear: take a method for it, such as dps\[condition=") as caught:
            sample(ExactScore(target, VPSDE()), conditioned, 2)
        assert "\n" not in str(caught.value)

    def test_masks_that_differ(self):
        exact = method("exact", Inpaint(mask="random"), target=GaussianTarget((8,)))
        with pytest.raises(ValueError, match="one mask for all samples"):
            exact.observe(torch.zeros(3, 8))

    @pytest.mark.parametrize("name", STEPPED)
    @pytest.mark.parametrize(
        "sampler", ["ode", "adaptive_sde", "pc[corrector=langevin]", "pc[predictor=none,corrector=ald]"]
    )
    def test_samplers_that_do_not_step(self, name, sampler):
        observed = create("conditions", name).observe(RING.sample(2))
        conditioned = ConditionedSampler(create("samplers", sampler), observed)
        with pytest.raises(UsageError, match="acts after every step of a predictor and gives correctors no") as caught:
            sample(ExactScore(RING, VPSDE()), conditioned, 2)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("sde", ["blurring", "cld", "ouve"])
    def test_processes_that_are_not_served(self, sde):
        target = GaussianTarget((1, 8, 8))
        observed = create("conditions", "mmps").observe(target.sample(2))
        conditioned = ConditionedSampler(create("samplers", "pc[predictor=euler_maruyama]"), observed)
        with pytest.raises(UsageError) as caught:
            sample(ExactScore(target, create("sdes", sde)), conditioned, 2)
        assert "\n" not in str(caught.value)


def test_a_guided_score_selects_its_rows():
    target = GaussianTarget((4,))
    observed = create("conditions", "mmps").observe(target.sample(5).double())
    score = observed.guide(ExactScore(target, VPSDE()))
    assert isinstance(score, GuidedScore)
    x, rows = torch.randn(5, 4).double(), torch.tensor([3, 1])
    level = LEVELS[1]
    torch.testing.assert_close(score.select(rows).score(x[rows], level), score.score(x, level)[rows])
    assert score.calls == 2


def test_of_a_trained_model(tmp_path, monkeypatch):
    """Digits that were seen as means of 4 x 4 pixels: the command draws samples that have these, others have not."""
    monkeypatch.chdir(tmp_path)
    drawn, problem = {}, "linear[operator=average[factor=4],noise=0.1]"
    for name in ("mmps", "plain"):
        given = ["--condition", f"mmps[condition={problem}]", "--observe", "exact[target=mnist_mfa]"]
        asked = ["sample", "--checkpoint", "mnist_vp", "--n", "2", "--steps", "10", "--keep-floats", "--out", name]
        assert main([*asked, *(given if name == "mmps" else [])]) == 0
        with np.load(f"{name}/samples.npz") as file:
            drawn[name] = torch.from_numpy(file["floats"])
    condition = create("conditions", problem)
    y = condition.measure(create("datasets", "exact[target=mnist_mfa]").load("test")[:2].double())
    off = {name: float((condition.operator.apply(x.double()) - y).square().mean().sqrt()) for name, x in drawn.items()}
    assert off["mmps"] < 0.25
    assert off["plain"] > 2 * off["mmps"]
