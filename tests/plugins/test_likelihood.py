"""Likelihood by the probability flow ODE, its divergence, and bits per dimension, against closed forms."""

import math

import pytest
import torch
from scoresde_conformance.exact import Watched
from scoresde_core import ExactScore, Noise, ScoreModel
from scoresde_core.errors import UsageError
from scoresde_core.sde import Level
from scoresde_plugins.dequantizers.uniform import UniformDequantizer
from scoresde_plugins.evaluators.likelihood import LikelihoodBoundGap, LogLikelihoodError
from scoresde_plugins.likelihood.bits_per_dim import bits_per_dim
from scoresde_plugins.likelihood.likelihood import log_likelihood
from scoresde_plugins.numerics.divergence import draw_probes, score_and_divergence
from scoresde_plugins.numerics.flow import Diverged, Solver
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mfa import MNISTMFATarget
from scoresde_plugins.targets.mixture2d import Mixture2DTarget
from scoresde_run.data.evidence import Evidence
from scoresde_run.models.network_score import NetworkScore

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
TARGETS = {
    "gaussian": GaussianTarget((2,), mean=(0.3, -0.2), covariance=((0.5, 0.2), (0.2, 0.3))),
    "image": GaussianTarget((1, 3, 4), std=0.5, decay=2.0),
    "mixture": Mixture2DTarget(components=5, std=0.3, imbalance=3.0),
}


class LinearScore(ScoreModel):
    """A x, with a matrix that is not symmetric."""

    def __init__(self, matrix):
        self.matrix = matrix

    def evaluate(self, x, level):
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)


class ZeroScore(ScoreModel):
    sde = VPSDE()

    def evaluate(self, x, level):
        return torch.zeros_like(x)


def bits(nats, x):
    return nats / (x[0].numel() * math.log(2))


class TestDivergence:
    MATRIX = torch.randn(100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    LEVEL = Level(0.5, 0.8, 0.6)

    def test_exact_is_the_trace(self):
        """100 entries take two chunks of rows."""
        x = torch.randn(3, 1, 10, 10, dtype=torch.float64)
        score, divergence = score_and_divergence(LinearScore(self.MATRIX), x, self.LEVEL)
        torch.testing.assert_close(divergence, self.MATRIX.trace().expand(3))
        torch.testing.assert_close(score, LinearScore(self.MATRIX).evaluate(x, self.LEVEL))
        assert not score.requires_grad

    @pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
    def test_probes_are_unbiased_with_the_known_variance(self, trace):
        symmetric = (self.MATRIX + self.MATRIX.T) / 2
        spread = symmetric.square().sum() - (symmetric.diagonal().square().sum() if trace == "rademacher" else 0)
        x, rows = torch.zeros(20_000, 100, dtype=torch.float64), 20_000
        probes = draw_probes(Noise(0, (100,), rows, dtype=torch.float64), trace, 1)
        _, divergence = score_and_divergence(LinearScore(self.MATRIX), x, self.LEVEL, probes)
        assert abs(divergence.mean() - self.MATRIX.trace()) < 4 * divergence.std() / math.sqrt(rows)
        assert float(divergence.var() / (2 * spread)) == pytest.approx(1, abs=0.05)

    def test_several_probes_are_averaged(self):
        x = torch.randn(4, 100, dtype=torch.float64)
        probes = draw_probes(Noise(0, (100,), 4, dtype=torch.float64), "gaussian", 3)
        model = LinearScore(self.MATRIX)
        together = score_and_divergence(model, x, self.LEVEL, probes)[1]
        apart = [score_and_divergence(model, x, self.LEVEL, probe.unsqueeze(0))[1] for probe in probes]
        torch.testing.assert_close(together, torch.stack(apart).mean(0))
        assert model.calls == 4

    def test_one_forward_pass(self):
        model = Watched(TARGETS["mixture"])
        score_and_divergence(model, torch.randn(4, 2), self.LEVEL, torch.ones(2, 4, 2))
        assert model.evaluations == model.calls == 1

    def test_a_score_that_does_not_depend_on_x_has_none(self):
        score, divergence = score_and_divergence(ZeroScore(), torch.randn(4, 2), self.LEVEL)
        assert not score.any()
        assert divergence.tolist() == [0.0] * 4

    def test_no_probe_is_an_error(self):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            draw_probes(Noise(0, (2,), 4), "gaussian", 0)


class TestLogLikelihood:
    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    @pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
    def test_mean_is_the_closed_form(self, target, sde):
        """To 2e-3 bits/dim, including the error of the prior in place of p_1."""
        x = target.sample(256)
        found = log_likelihood(ExactScore(target, sde), x, trace="exact")
        error = bits(found.log_prob - target.log_prob(x.double()), x)
        assert abs(float(error.mean())) < 2e-3

    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_each_sample_has_the_density_of_the_flow(self, sde):
        """An affine flow of a diagonal Gaussian in closed form: x_1 - a m = (x - a m) s_1 / s, log density to 1e-5."""
        mean, std, t_min = 0.3, 0.5, 1e-3
        target = GaussianTarget((3,), mean=mean, std=std)
        x = target.sample(16).double()
        alpha, sigma = (f(torch.tensor([t_min, 1.0], dtype=torch.float64)) for f in (sde.alpha, sde.sigma))
        spread = (alpha**2 * std**2 + sigma**2).sqrt()
        latent = alpha[1] * mean + (x - alpha[0] * mean) * spread[1] / spread[0]
        expected = sde.prior.log_prob(latent) + 3 * (spread[1] / spread[0]).log()
        found = log_likelihood(
            ExactScore(target, sde), x, trace="exact", t_min=t_min, solver=Solver(rtol=1e-8, atol=1e-8)
        )
        torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(found.latent, latent, rtol=1e-6, atol=1e-6)

    def test_a_standard_normal_under_vp_is_its_own_latent(self):
        x = GaussianTarget((2,)).sample(8)
        found = log_likelihood(ExactScore(GaussianTarget((2,)), VPSDE()), x, trace="rademacher")
        torch.testing.assert_close(found.latent, x, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.log_prob, GaussianTarget((2,)).log_prob(x.double()), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
    def test_probes_are_unbiased(self, trace):
        target = TARGETS["gaussian"]
        x = target.sample(1)
        exact = log_likelihood(ExactScore(target, VPSDE()), x, trace="exact").log_prob
        drawn = log_likelihood(ExactScore(target, VPSDE()), x.expand(2000, 2), trace=trace, probes=2).log_prob
        assert abs(float(drawn.mean() - exact)) < 4 * float(drawn.std()) / math.sqrt(2000)
        assert float(drawn.std()) > 0.01

    def test_mnist_mfa_with_probes(self):
        """784 dimensions: within 4 standard errors, which are below 0.005 bits/dim."""
        target = MNISTMFATarget()
        x = target.sample(24)
        found = log_likelihood(ExactScore(target, VPSDE()), x, probes=8, solver=Solver(rtol=1e-4, atol=1e-4))
        error = bits(found.log_prob - target.log_prob(x.double()), x)
        stderr = float(error.std()) / math.sqrt(len(x))
        assert stderr < 5e-3
        assert abs(float(error.mean())) < 4 * stderr

    def test_any_split_gives_the_same(self):
        target, sde = TARGETS["mixture"], VPSDE()
        x, model = target.sample(12), ExactScore(target, sde)
        tight = Solver(rtol=1e-7, atol=1e-7)
        whole = log_likelihood(model, x, solver=tight, seed=3)
        parts = log_likelihood(model, x, solver=tight, seed=3, batch_size=5)
        torch.testing.assert_close(whole.log_prob, parts.log_prob, rtol=0, atol=1e-4)
        tail = log_likelihood(model, x[7:], solver=tight, seed=3, first=7)
        torch.testing.assert_close(whole.log_prob[7:], tail.log_prob, rtol=0, atol=1e-4)
        other = log_likelihood(model, x, solver=tight, seed=4)
        assert float((whole.log_prob - other.log_prob).abs().max()) > 1e-2

    def test_nfe_is_the_count_of_its_batch(self):
        model = Watched(TARGETS["gaussian"])
        found = log_likelihood(model, TARGETS["gaussian"].sample(5), batch_size=4)
        assert found.nfe.shape == (5,)
        assert int(found.nfe[0] + found.nfe[4]) == model.evaluations

    def test_a_score_of_nan_says_so(self):
        class Broken(ScoreModel):
            sde = VPSDE()

            def evaluate(self, x, level):
                return x * math.nan

        with pytest.raises(Diverged, match="could not be solved"):
            log_likelihood(Broken(), torch.zeros(2, 2))

    def test_discrete_models_are_refused_with_the_reason(self):
        class Network(torch.nn.Module):
            def forward(self, x, label):
                return x

        model = NetworkScore(Network(), VPSDE(), parameterisation="noise", label="index")
        with pytest.raises(UsageError, match="discrete=True"):
            log_likelihood(model, torch.zeros(2, 2))

    @pytest.mark.parametrize("t_min", [0.0, 1.0, -1.0])
    def test_t_min_is_checked(self, t_min):
        with pytest.raises(ValueError, match="between 0 and 1"):
            log_likelihood(ZeroScore(), torch.zeros(2, 2), t_min=t_min)


class TestBitsPerDim:
    IMAGES = torch.arange(256, dtype=torch.uint8).reshape(64, 1, 2, 2)

    @pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)], ids=["centred", "unit", "other"])
    def test_uniform_density_costs_8_bits_in_any_range(self, low, high):
        def uniform(x, seed):
            assert low <= float(x.min())
            assert float(x.max()) < high
            return torch.full((len(x),), -4 * math.log(high - low))

        found = bits_per_dim(uniform, self.IMAGES, low=low, high=high, repeats=2)
        torch.testing.assert_close(found.values, torch.full((2, 64), 8.0, dtype=torch.float64), rtol=0, atol=1e-6)

    def test_a_known_density(self):
        """Density 2 y on [0, 1]: a bound on -log2 of the mass of a grey level, nearly tight away from 0."""
        images = torch.full((4000, 1, 1, 1), 100, dtype=torch.uint8)
        found = bits_per_dim(lambda x, seed: (2 * x.flatten()).log(), images, low=0, high=1)
        mass = (101**2 - 100**2) / 256**2
        assert found.mean == pytest.approx(-math.log2(mass), abs=2e-4)
        assert found.mean > -math.log2(mass) - 4 * found.stderr

    def test_repeats_have_noise_of_their_own_and_any_split_gives_the_same(self):
        def density(x, seed):
            return x.flatten(1).sum(1)

        whole = bits_per_dim(density, self.IMAGES, repeats=2, seed=5)
        assert not torch.equal(whole.values[0], whole.values[1])
        tail = bits_per_dim(density, self.IMAGES[40:], repeats=2, seed=5, first=40)
        torch.testing.assert_close(whole.values[:, 40:], tail.values)
        assert whole.stderr == pytest.approx(float(whole.values.mean(0).std()) / 8)

    def test_uniform_dequantizer_stays_in_the_cell(self):
        images = torch.full((50_000, 1), 255, dtype=torch.uint8)
        filled, log_q = UniformDequantizer().dequantize(images, lambda: torch.full((50_000, 1), 9.0))
        assert float(filled.max()) < 256
        assert not log_q.any()
        noise = Noise(0, (1,), 50_000)
        filled, _ = UniformDequantizer().dequantize(images, noise.at(0, "u"))
        u = filled.double() - 255
        assert float(u.min()) >= 0
        assert float(u.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 50_000))
        assert float(u.var()) == pytest.approx(1 / 12, rel=0.02)

    def test_floats_are_refused(self):
        with pytest.raises(ValueError, match=r"uint8 values 0 to 255, got torch\.float32"):
            bits_per_dim(lambda x, seed: x, torch.rand(2, 1, 2, 2))


class TestEvaluators:
    @pytest.mark.parametrize("evaluator", [LogLikelihoodError(), LikelihoodBoundGap()], ids=["ode", "bound"])
    def test_exact_scores_are_near_0_and_wrong_ones_are_not(self, evaluator):
        class TooLarge(Watched):
            def evaluate(self, x, level):
                return 1.3 * super().evaluate(x, level)

        target = TARGETS["gaussian"]
        right, wrong = (
            evaluator.evaluate(Evidence(torch.zeros(256, 2), target=target, model=model))[0]
            for model in (ExactScore(target, VPSDE()), TooLarge(target, VPSDE()))
        )
        assert abs(right.value) < max(2e-3, 4 * right.stderr)
        assert abs(wrong.value) > 0.03
        assert right.unit == "bits/dim"
