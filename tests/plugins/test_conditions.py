"""Controllable generation: the known part is exact and nothing else is used; masks, measurements, colours, classes."""

import math

import numpy as np
import pytest
import torch
from exact_conditional import CROSS
from safetensors.torch import save_file
from scoresde import ConditionedSampler, ExactScore, Noise, Schedule, create, sample
from scoresde_conformance.exact import Watched
from scoresde_core.errors import FileError, UsageError
from scoresde_core.frame import rotate
from scoresde_core.sde import Level
from scoresde_plugins.conditions.known import Colorize, Inpaint, KnownCoefficients, LinearMeasurement, grey_basis
from scoresde_plugins.conditions.label import ClassCondition, ClassObservation, GuidedScore, TargetClassifier
from scoresde_plugins.networks.classifier import Classifier, NetworkClassifier
from scoresde_plugins.operators.average import AverageOperator
from scoresde_plugins.operators.blur import BlurOperator
from scoresde_plugins.score_flow.sdes import LinearVESDE
from scoresde_plugins.song2021.samplers import ODESampler
from scoresde_plugins.song2021.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers

SDES = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "linear_ve": LinearVESDE()}
CONDITIONS = {
    "inpaint": Inpaint(),
    "box": Inpaint(mask="box"),
    "random": Inpaint(mask="random", share=0.3),
    "colorize": Colorize(),
    "average": LinearMeasurement(AverageOperator(4)),
    "blur": LinearMeasurement(BlurOperator(0.8)),
}
FINE = "pc[steps=400,grid=logsnr]"  # the sampler itself has the right variance to 1 %
IMAGES = GaussianTarget((3, 8, 8), std=0.5, decay=2.0)


def draw(target, sde, observed, n, *, rounds=1, sampler="pc[steps=100,predictor=ddim[eta=1],grid=logsnr]", **more):
    if isinstance(sampler, str):
        sampler = create("samplers", sampler)
    conditioned = ConditionedSampler(sampler, observed, rounds)
    return sample(ExactScore(target, sde), conditioned, n, **more).x


class TestKnownPart:
    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    @pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
    def test_is_exact_and_the_rest_is_generated(self, condition, sde):
        x = IMAGES.sample(4)
        observed = condition.observe(x)
        for sampler in ("pc[steps=20]", "pc[steps=20,denoise=false,corrector=langevin,order=predictor_first]"):
            drawn = draw(IMAGES, sde, observed, 4, sampler=sampler)
            known = observed.known.expand(4, 3, 8, 8)
            coefficients, truth = rotate(drawn, observed.basis), rotate(x, observed.basis)
            torch.testing.assert_close(coefficients[known], truth[known], rtol=0, atol=2e-5)
            assert float((coefficients - truth)[~known].square().mean()) > 1e-3

    def test_of_pixels_is_exact_to_the_bit(self):
        x = IMAGES.sample(4)
        drawn = draw(IMAGES, VPSDE(), Inpaint(mask="top").observe(x), 4, sampler="pc[steps=10,corrector=langevin]")
        assert torch.equal(drawn[:, :, :4], x[:, :, :4])

    @pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
    def test_nothing_else_is_used(self, condition):
        """Events that differ in the unknown part alone give the same samples."""
        x = IMAGES.sample(4).double()
        observed = condition.observe(x)
        hidden = torch.where(observed.known, 0.0, torch.randn(4, 3, 8, 8, dtype=torch.float64))
        other = x + rotate(hidden, observed.basis, inverse=True)
        assert not torch.allclose(x, other)
        one, two = (
            draw(IMAGES, VPSDE(), condition.observe(events), 4, sampler="pc[steps=10]", dtype=torch.float64)
            for events in (x, other)
        )
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)

    def test_hidden_pixels_may_be_nan(self):
        x = IMAGES.sample(2)
        x[:, :, :, 4:] = math.nan
        assert bool(draw(IMAGES, VPSDE(), Inpaint(mask="left").observe(x), 2, sampler="pc[steps=5]").isfinite().all())

    @pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
    def test_has_its_law_at_every_level(self, condition):
        """Mean alpha c and standard deviation sigma in every known coefficient, and no change elsewhere."""
        x, n = IMAGES.sample(1).double().expand(2000, 3, 8, 8), 2000
        observed, level = condition.observe(x), Level(0.4, 0.7, 0.5)
        state = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        noise = Noise(0, (3, 8, 8), n, dtype=torch.float64)
        after = rotate(observed.impose(state, level, noise.at(0, "test")), observed.basis)
        known = observed.known.expand(x.shape)
        left = ((after - 0.7 * observed.values) / 0.5)[known]
        assert float(left.mean()) == pytest.approx(0, abs=4 / math.sqrt(left.numel()))
        assert float(left.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * left.numel()))
        torch.testing.assert_close(after[~known], rotate(state, observed.basis)[~known])

    def test_starts_at_the_noise_of_the_prior_and_not_as_clean_data(self):
        """The first state that the model sees has x_1's law in the known half."""
        seen = []

        class Spy(Watched):
            def evaluate(self, x, level):
                seen.append(x.clone())
                return super().evaluate(x, level)

        x, sde = IMAGES.sample(1).expand(400, 3, 8, 8), VESDE(sigma_max=5.0)
        sampler = ConditionedSampler(create("samplers", "pc[steps=2]"), Inpaint(mask="left").observe(x))
        sample(Spy(IMAGES, sde), sampler, 400)
        assert float((seen[0] - x)[..., :4].std()) == pytest.approx(5.0, rel=0.01)


class TestMasks:
    @pytest.mark.parametrize(
        ("mask", "known"),
        [
            ("left", lambda r, c: c < 4),
            ("right", lambda r, c: c >= 4),
            ("top", lambda r, c: r < 4),
            ("bottom", lambda r, c: r >= 4),
            ("box", lambda r, c: (r < 2) | (r >= 6) | (c < 2) | (c >= 6)),
        ],
    )
    def test_named(self, mask, known):
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        assert torch.equal(Inpaint(mask=mask).known(1, (3, 8, 8))[0, 0], known(rows, columns))

    def test_random_is_keyed_by_the_sample_and_shared_by_channels(self):
        observed = Inpaint(mask="random", share=0.3, seed=4).observe(torch.ones(500, 3, 8, 8))
        known = observed.known
        assert torch.equal(known[:, 0], known[:, 2])
        assert float(known[:, 0].double().mean()) == pytest.approx(0.3, abs=0.02)
        assert not torch.equal(known[0], known[1])
        again = Inpaint(mask="random", share=0.3, seed=4).observe(torch.ones(10, 3, 8, 8)).known
        assert torch.equal(known[:10], again)
        assert not torch.equal(again, Inpaint(mask="random", share=0.3, seed=5).observe(torch.ones(10, 3, 8, 8)).known)

    @pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8)], ids=["spatial", "whole"])
    def test_of_a_file(self, tmp_path, shape):
        mask = np.random.default_rng(0).random(shape) < 0.5
        np.save(tmp_path / "mask.npy", mask)
        found = Inpaint(mask=str(tmp_path / "mask.npy")).observe(torch.ones(2, 3, 8, 8)).known
        assert torch.equal(found[0], torch.from_numpy(np.broadcast_to(mask, (3, 8, 8)).copy()))

    def test_of_an_image(self, tmp_path):
        from PIL import Image

        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[:3] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        found = Inpaint(mask=str(tmp_path / "mask.png")).observe(torch.ones(1, 1, 8, 8)).known
        assert torch.equal(found[0, 0], torch.from_numpy(mask > 0))

    def test_wrong_ones_say_why(self, tmp_path):
        with pytest.raises(ValueError, match=r"no file .nowhere\.npy."):
            Inpaint(mask="nowhere.npy")
        np.save(tmp_path / "small.npy", np.eye(4))
        small = Inpaint(mask=str(tmp_path / "small.npy"))
        assert "has shape (4, 4), the events have (3, 8, 8)" in small.skip((3, 8, 8))
        with pytest.raises(ValueError, match=r"it needs that or \(8, 8\)"):
            small.observe(torch.zeros(1, 3, 8, 8))
        np.save(tmp_path / "all.npy", np.ones((8, 8)))
        with pytest.raises(FileError, match="must have zero and non-zero entries"):
            Inpaint(mask=str(tmp_path / "all.npy")).known(1, (3, 8, 8))
        (tmp_path / "broken.npy").write_bytes(b"no array")
        assert "as a mask: " in Inpaint(mask=str(tmp_path / "broken.npy")).skip((3, 8, 8))


class TestLinear:
    def test_average_measures_block_means(self):
        x = IMAGES.sample(3).double()
        expected = x.reshape(3, 3, 4, 2, 4, 2).mean((3, 5))
        torch.testing.assert_close(LinearMeasurement().measure(x), expected)

    def test_samples_have_the_measurement(self):
        x, condition = IMAGES.sample(4), LinearMeasurement()
        drawn = draw(IMAGES, VPSDE(), condition.observe(x), 4, sampler="pc[steps=20]")
        torch.testing.assert_close(condition.measure(drawn), condition.measure(x), rtol=0, atol=1e-5)
        assert float((drawn - x).square().mean()) > 1e-2

    def test_blur_keeps_constants_and_blurs_an_impulse_as_a_gaussian(self):
        condition = LinearMeasurement(BlurOperator(1.5))
        torch.testing.assert_close(condition.measure(torch.ones(1, 1, 21, 21)), torch.ones(1, 1, 21, 21))
        impulse = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
        impulse[..., 10, 10] = 1
        row = condition.measure(impulse)[0, 0, 10]
        offsets = torch.arange(-6, 7, dtype=torch.float64)
        torch.testing.assert_close(row[4:17] / row[10], (-0.5 * (offsets / 1.5) ** 2).exp(), rtol=1e-6, atol=0)

    def test_samples_have_the_blur_to_its_smallest_singular_value(self):
        x, condition = IMAGES.sample(4), LinearMeasurement(BlurOperator(0.8), smallest=0.05)
        drawn = draw(IMAGES, VPSDE(), condition.observe(x), 4, sampler="pc[steps=20]")
        off = condition.measure(drawn) - condition.measure(x)
        assert float(off.norm() / (drawn - x).norm()) < 0.05

    def test_exact_conditional_of_a_white_gaussian(self):
        """Block means of white noise: the rest is independent of them, N(0, s^2) in every other direction."""
        target, n = GaussianTarget((1, 2, 2), std=0.5), 4000
        observed = LinearMeasurement().observe(torch.full((n, 1, 2, 2), 0.3))
        drawn = draw(target, VPSDE(), observed, n, sampler=FINE).flatten(1).double()
        torch.testing.assert_close(drawn.mean(1), torch.full((n,), 0.3).double(), rtol=0, atol=1e-5)
        assert float((drawn - 0.3).square().sum(1).mean() / 3) == pytest.approx(0.25, rel=0.04)

    @pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
    def test_exact_conditional_of_a_mixture(self, sde):
        """Two modes along (1, -1, 0, 0) / sqrt 2, apart from the block mean, which is a factor of its own.

        Given the mean y the law is closed form: mode weights 0.7 and 0.3, mean y + 0.4 m in the direction of the modes,
        variance s^2 + 0.84 m^2 along it and s^2 across.
        """
        std, shift, y, n = 0.2, 0.8, 0.3, 4000
        basis = torch.tensor([[1, 1, 1, 1], [2**0.5, -(2**0.5), 0, 0], [0, 0, 2**0.5, -(2**0.5)], [1, 1, -1, -1]])
        basis = basis.double() / 2
        target = MixtureOfFactorAnalysers(
            torch.tensor([0.7, 0.3]), shift * torch.stack([basis[1], -basis[1]]), basis[:1].repeat(2, 1, 1),
            torch.full((4,), std**2), (1, 2, 2),
        )  # fmt: skip
        observed = LinearMeasurement().observe(torch.full((n, 1, 2, 2), y))
        found = draw(target, sde, observed, n, sampler=FINE).flatten(1).double() @ basis.T
        torch.testing.assert_close(found[:, 0], torch.full((n,), 2 * y).double(), rtol=0, atol=1e-5)
        weight = float((found[:, 1] > 0).double().mean())
        assert abs(weight - 0.7) < 4 * math.sqrt(0.21 / n)
        spread = math.sqrt(std**2 + 0.84 * shift**2)
        assert abs(float(found[:, 1].mean()) - 0.4 * shift) < 4 * spread / math.sqrt(n) + 0.01
        assert float(found[:, 1].var()) == pytest.approx(spread**2, rel=0.06)
        assert float(found[:, 2:].var(0).mean()) == pytest.approx(std**2, rel=0.05)

    def test_blocks_must_tile(self):
        with pytest.raises(ValueError, match="blocks of 3 do not tile events of shape"):
            LinearMeasurement(AverageOperator(3)).observe(torch.zeros(1, 3, 8, 8))


class TestColorize:
    def test_basis_is_orthonormal_with_grey_first(self):
        basis = grey_basis()
        torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(basis[0], torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64))

    def test_grey_is_kept_and_colours_are_generated(self):
        x = IMAGES.sample(4)
        drawn = draw(IMAGES, VESDE(), Colorize().observe(x), 4, sampler="pc[steps=20]")
        torch.testing.assert_close(drawn.mean(1), x.mean(1), rtol=0, atol=1e-5)
        assert float((drawn - drawn.mean(1, keepdim=True)).std()) > 0.1

    def test_refuses_grey_images(self):
        with pytest.raises(ValueError, match="3 channels"):
            Colorize().observe(torch.zeros(1, 1, 8, 8))


class TestClass:
    LABELS = 4

    @pytest.mark.parametrize("sampler", ["pc[steps=200,grid=logsnr,predictor=ddim[eta=1]]", "ode"])
    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_samples_are_the_component(self, sde, sampler):
        """With the exact posterior as classifier: mean and variance of the Gaussian that the label names."""
        n = 2000
        observed = ClassCondition(label=2, target=CROSS).observe(torch.zeros(n, 2))
        x = draw(CROSS, sde, observed, n, sampler=sampler).double()
        torch.testing.assert_close(x.mean(0), CROSS.mixture.means[2], rtol=0, atol=4 * CROSS.std / math.sqrt(n) + 0.01)
        assert float(x.var(0).mean()) == pytest.approx(CROSS.std**2, rel=0.08)

    @pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
    def test_guided_score_is_that_of_the_component(self, sde):
        """grad log p(x) + grad log p(k | x) = grad log p(x | k), at levels high and low."""
        for step in Schedule(sde, torch.tensor([1.0, 0.5, 0.1, 0.01, 0.0])).steps:
            level, k = step.now, torch.tensor([0, 1, 2, 3])
            x = torch.randn(4, 2, dtype=torch.float64) * (level.alpha + level.sigma)
            observed = ClassCondition(label=(0, 1, 2, 3), target=CROSS).observe(x)
            guided = observed.guide(ExactScore(CROSS)).score(x, level)
            variance = level.alpha**2 * CROSS.std**2 + level.sigma**2
            torch.testing.assert_close(guided, (level.alpha * CROSS.mixture.means[k] - x) / variance)

    def test_scale_multiplies_the_gradient(self):
        x, level, model = torch.randn(4, 2, dtype=torch.float64), Level(0.3, 0.8, 0.6), ExactScore(CROSS)
        plain = model.score(x, level)
        steps = [
            ClassCondition(scale=w, target=CROSS).observe(x).guide(model).score(x, level) - plain
            for w in (0.0, 1.0, 3.0)
        ]
        assert not steps[0].any()
        torch.testing.assert_close(steps[2], 3 * steps[1])

    def test_labels_are_cycled_and_split_with_the_batch(self):
        observed = ClassCondition(label=(0, 3), target=CROSS).observe(torch.zeros(5, 2))
        assert observed.labels.tolist() == [0, 3, 0, 3, 0]
        whole, parts = (draw(CROSS, VPSDE(), observed, 5, batch_size=size) for size in (None, 2))
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4)

    def test_only_the_score_model_is_counted(self):
        model, observed = ExactScore(CROSS, VPSDE()), ClassCondition(target=CROSS).observe(torch.zeros(3, 2))
        found = sample(model, ConditionedSampler(create("samplers", "pc[steps=9]"), observed), 3)
        assert found.nfe == model.calls == 9

    def test_network_sees_the_ve_form_of_the_state(self):
        """x / alpha with noise sigma / alpha, and its gradient by the chain rule."""
        seen = {}

        class Linear(torch.nn.Module):
            def forward(self, x, label):
                seen["x"], seen["label"] = x.detach(), label
                return torch.stack([x.sum(1), torch.zeros(len(x), dtype=x.dtype)], 1)

        x, level = torch.tensor([[0.4, 0.2]], dtype=torch.float64), Level(0.3, 0.5, 0.6)
        observed = ClassObservation(torch.tensor([0]), NetworkClassifier(Linear(), 2), 1.0)
        found = observed.guide(ExactScore(CROSS)).score(x, level) - ExactScore(CROSS).score(x, level)
        torch.testing.assert_close(seen["x"], x / 0.5)
        assert seen["label"].tolist() == pytest.approx([1.2])
        torch.testing.assert_close(found, torch.full_like(x, (1 - 1 / (1 + math.exp(-1.2))) / 0.5))

    def test_network_and_weights_from_a_file(self, tmp_path):
        spec = Classifier(multiplier=1, blocks_per_group=1)
        save_file(spec.build((1, 8, 8)).state_dict(), tmp_path / "classifier.safetensors")
        x = torch.randn(2, 1, 8, 8)
        condition = ClassCondition(label=3, network=spec, weights=str(tmp_path / "classifier.safetensors"))
        guided = condition.observe(x).guide(ExactScore(GaussianTarget((1, 8, 8))))
        assert isinstance(guided, GuidedScore)
        assert bool(guided.score(x, Level(0.5, 0.8, 0.6)).isfinite().all())
        missing = ClassCondition(network=spec, weights=str(tmp_path / "none.safetensors"))
        with pytest.raises(FileError, match="cannot load the classifier"):
            missing.observe(x)

    @pytest.mark.parametrize(
        ("params", "problem"),
        [
            ({}, "give one classifier"),
            ({"target": CROSS, "label": 4}, "classes 0 to 3, got 4"),
            ({"target": GaussianTarget()}, "no components"),
            ({"target": CROSS, "weights": "x"}, "must be given together"),
            ({"target": CROSS, "label": -1}, "count from 0, got -1"),
        ],
    )
    def test_bad_parameters(self, params, problem):
        with pytest.raises(ValueError, match=problem):
            ClassCondition(**params)


class TestCombinations:
    def test_a_sampler_without_steps_is_refused(self):
        conditioned = ConditionedSampler(ODESampler(), Inpaint().observe(torch.zeros(2, 2)))
        assert "take pc" in conditioned.skip(VPSDE())
        with pytest.raises(UsageError, match="take pc"):
            sample(ExactScore(CROSS, VPSDE()), conditioned, 2)

    def test_too_few_events_say_so(self):
        with pytest.raises(ValueError, match="2 events were observed, too few for sample 4"):
            draw(CROSS, VPSDE(), Inpaint().observe(torch.zeros(2, 2)), 5)

    def test_components_are_typed_on_the_command_line(self):
        assert create("conditions", "inpaint[mask=random,share=0.3]") == Inpaint(mask="random", share=0.3)
        condition = create("conditions", "class[label=[1,2],scale=2,target=mixture2d[components=4]]")
        assert condition.labels == (1, 2)
        with pytest.raises(UsageError, match="no file 'nothing'"):
            create("conditions", "inpaint[mask=nothing]")


def test_values_with_noise_are_imposed_down_to_their_own_noise_level():
    """alpha c with the noise that is missing, while alpha n <= sigma; below it the state is left alone."""
    known = KnownCoefficients(torch.full((1, 2), 3.0), torch.tensor([[True, False]]), noise=torch.tensor([1.0, 1.0]))
    x = torch.full((1, 2), 7.0)
    above = known.impose(x, Level(0.5, 0.5, 0.6), lambda: torch.ones(1, 2))
    assert above.tolist()[0] == pytest.approx([0.5 * 3 + math.sqrt(0.6**2 - 0.5**2), 7.0])
    assert known.impose(x, Level(0.5, 0.5, 0.4), lambda: torch.ones(1, 2)).tolist() == [[7.0, 7.0]]


def test_singular_values_are_small_in_units_of_the_largest(tmp_path):
    np.save(tmp_path / "matrix.npy", np.diag([10.0, 1.5, 0.5]))
    known = create("conditions", f"linear[operator=matrix[path={tmp_path}/matrix.npy],smallest=0.1]").observe(
        torch.ones(2, 3)
    )
    assert sorted(known.known.flatten().tolist()) == [False, True, True]


def test_a_target_classifies_events_in_other_units():
    """Of model units m with u = 3 m + 0.5 the components have means (mu - 0.5) / 3 and deviations s / 3."""
    target = create("targets", "mixture2d[layout=ring]").to("cpu", torch.float64)
    mixture, level = target.as_mixture(), Level(0.5, 0.8, 0.4)
    x = torch.randn(9, 2, dtype=torch.float64)
    spread = (0.8 / 3) ** 2 * mixture.noise[0] + 0.4**2
    assert mixture.factors.numel() == 0
    off = x.unsqueeze(1) - 0.8 * (mixture.means - 0.5) / 3
    expected = (mixture.weights.log() - off.square().sum(2) / (2 * spread)).log_softmax(1)
    found = TargetClassifier(target, scale=3.0, shift=0.5).log_probabilities(x, level)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
