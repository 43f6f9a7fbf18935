"""Exact targets against torch.distributions, autograd and their own samples."""

import math
from pathlib import Path

import pytest
import torch
from operations import Results
from safetensors.torch import load_file, save_file
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from scoresde_core.components import build, parse
from scoresde_core.errors import FileError, UsageError
from scoresde_core.sde import DATA, Level
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_plugins.targets.mfa import MFATarget, MNISTMFATarget, rounded, write
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers
from scoresde_plugins.targets.mixture2d import Mixture2DTarget


def analysers(components=3, factors=2, shape=(2, 3)):
    """A small mixture with overlapping components and unequal noise."""
    generator = torch.Generator().manual_seed(7)
    dim = math.prod(shape)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return MixtureOfFactorAnalysers(
        torch.arange(1.0, components + 1),
        0.8 * normal(components, dim),
        0.6 * normal(components, factors, dim),
        0.05 + torch.rand(dim, generator=generator),
        shape,
    )


SMALL = {
    "gaussian": GaussianTarget(shape=(3,), mean=(0.5, -1.0, 2.0), std=(0.5, 1.0, 0.1)),
    "gaussian_full": GaussianTarget(shape=(2,), mean=0.3, covariance=((1.0, 0.6), (0.6, 0.5))),
    "gaussian_decay": GaussianTarget(shape=(2, 3, 4), mean=-0.2, std=0.5, decay=2.0),
    "gaussian_decay_line": GaussianTarget(shape=(5,), decay=1.0),
    "ring": Mixture2DTarget(imbalance=10.0),
    "grid": Mixture2DTarget(layout="grid", components=9),
    "moons": Mixture2DTarget(layout="moons", components=12),
    "spiral": Mixture2DTarget(layout="spiral", components=16),
    "pinwheel": Mixture2DTarget(layout="pinwheel", components=20, weights=tuple(range(1, 21))),
    "analysers": analysers(),
}
LEVELS = [
    pytest.param(DATA, id="data"),
    pytest.param(Level(0.01, 1.0, 0.01), id="little_noise"),
    pytest.param(Level(0.5, 0.6, 0.7), id="vp_like"),
    pytest.param(Level(1.0, 1.0, 50.0), id="ve_end"),
    pytest.param(Level(1.0, 0.0066, 1.0), id="vp_end"),
]
every_target = pytest.mark.parametrize("target", [pytest.param(t, id=name) for name, t in SMALL.items()])


def noisy(target, level, n=32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    x = target.sample(n, seed).double()
    return level.alpha * x + level.sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)


def reference(target, level):
    """The same distribution with dense covariances."""
    if isinstance(target, GaussianTarget):
        mean, covariance = target.moments()
        noise = level.sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        return MultivariateNormal(level.alpha * mean, level.alpha**2 * covariance + noise)
    law = target if isinstance(target, MixtureOfFactorAnalysers) else target.mixture
    covariance = law.factors.mT @ law.factors + law.noise.diag()
    noise = level.sigma**2 * torch.eye(len(law.noise), dtype=torch.float64)
    components = MultivariateNormal(level.alpha * law.means, level.alpha**2 * covariance + noise)
    return MixtureSameFamily(Categorical(law.weights), components)


@every_target
@pytest.mark.parametrize("level", LEVELS)
def test_log_prob_is_that_of_the_dense_covariances(target, level):
    x = noisy(target, level)
    expected = reference(target, level).log_prob(x.flatten(1))
    torch.testing.assert_close(target.log_prob(x, level), expected, rtol=1e-9, atol=1e-9)


@every_target
@pytest.mark.parametrize("level", LEVELS)
def test_score_is_the_gradient_of_log_prob(target, level):
    x = noisy(target, level).requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_prob(x, level).sum(), x)
    torch.testing.assert_close(target.score(x.detach(), level), gradient, rtol=1e-8, atol=1e-8)


@every_target
def test_gradients_pass_the_score_to_points_and_levels(target):
    """Posterior sampling differentiates the points, a search of times the levels."""
    x = noisy(target, Level(0.5, 0.6, 0.7), 3).requires_grad_()
    alpha, sigma = (torch.tensor(values, dtype=torch.float64).requires_grad_() for values in ([0.6] * 3, [0.7] * 3))
    assert torch.autograd.gradcheck(lambda x, *level: target.score(x, Level(0.5, *level)), (x, alpha, sigma))


def test_mnist_score_is_the_gradient_of_log_prob():
    target = MNISTMFATarget()
    for level in (DATA, Level(0.1, 0.9, 0.2), Level(1.0, 1.0, 50.0)):
        x = noisy(target, level, 4).requires_grad_()
        (gradient,) = torch.autograd.grad(target.log_prob(x, level).sum(), x)
        torch.testing.assert_close(target.score(x.detach(), level), gradient, rtol=1e-8, atol=1e-8)


def test_mnist_log_prob_is_that_of_the_dense_covariances():
    target, level = MNISTMFATarget(), Level(0.1, 0.9, 0.05)
    x = noisy(target, level, 4)
    expected = reference(target, level).log_prob(x.flatten(1))
    torch.testing.assert_close(target.log_prob(x, level), expected, rtol=1e-9, atol=0)


@every_target
@pytest.mark.parametrize("form", ["zero_dim", "one_element", "a_value_a_row", "row_and_float"])
def test_every_form_of_a_level_gives_the_same(target, form):
    x = noisy(target, Level(0.5, 0.6, 0.7))
    tensor = {
        "zero_dim": lambda v: torch.tensor(v, dtype=torch.float64),
        "one_element": lambda v: torch.full((1,) * x.ndim, v, dtype=torch.float64),
        "a_value_a_row": lambda v: torch.full((len(x), *[1] * (x.ndim - 1)), v, dtype=torch.float64),
        "row_and_float": lambda v: torch.full((len(x),), v, dtype=torch.float64),
    }[form]
    level = Level(0.5, tensor(0.6), 0.7 if form == "row_and_float" else tensor(0.7))
    plain = Level(0.5, 0.6, 0.7)
    torch.testing.assert_close(target.score(x, level), target.score(x, plain), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(target.log_prob(x, level), target.log_prob(x, plain), rtol=1e-11, atol=1e-11)


@every_target
def test_rows_at_their_own_levels_are_those_of_single_calls(target):
    sigma = torch.tensor([0.01, 0.3, 2.0, 50.0], dtype=torch.float64)
    alpha = torch.tensor([1.0, 0.7, 0.2, 0.01], dtype=torch.float64)
    x = noisy(target, DATA, 4)
    view = (4, *[1] * (x.ndim - 1))
    level = Level(0.0, alpha.reshape(view), sigma.reshape(view))
    single = [Level(0.0, float(a), float(s)) for a, s in zip(alpha, sigma, strict=True)]
    score = torch.cat([target.score(x[i : i + 1], one) for i, one in enumerate(single)])
    density = torch.cat([target.log_prob(x[i : i + 1], one) for i, one in enumerate(single)])
    torch.testing.assert_close(target.score(x, level), score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(target.log_prob(x, level), density, rtol=1e-10, atol=1e-10)
    assert target.score(x.float(), level).dtype == torch.float32


@every_target
def test_a_cached_level_answers_as_a_fresh_one(target):
    x = noisy(target, DATA)
    levels = [Level(0.0, 1.0, 0.1 * k) for k in range(1, 13)]
    first = [target.score(x, level) for level in levels]
    for level, expected in zip(levels, first, strict=True):
        assert torch.equal(target.score(x, level), expected)
        assert torch.equal(target.score(x, level), expected)


@every_target
def test_samples_have_the_stated_moments(target):
    x = target.sample(20_000, seed=11).flatten(1).double()
    mean, covariance = target.moments()
    assert x.dtype == mean.dtype == covariance.dtype == torch.float64
    centred = x - mean
    error = centred.mean(0) / (covariance.diagonal() / len(x)).sqrt()
    products = centred[:, :, None] * centred[:, None, :]
    spread = (products.mean(0) - covariance) / (products.std(0) / math.sqrt(len(x)))
    # The largest of up to 24 + 300 standard normals: 4.5 is passed by chance once in 450 runs; the seed is fixed.
    assert float(error.abs().max()) < 4
    assert float(spread.abs().max()) < 4.5


@every_target
def test_entropy_is_minus_the_mean_log_prob(target):
    density = target.log_prob(target.sample(20_000, seed=5).double())
    entropy = target.entropy()
    stderr = math.hypot(float(density.std()) / math.sqrt(len(density)), entropy.stderr)
    assert abs(entropy.value + float(density.mean())) < 4 * stderr
    assert entropy.stderr < 0.01


@every_target
def test_draws_depend_on_the_seed_and_not_on_their_number(target):
    drawn = target.sample(5000, seed=2)
    assert drawn.shape == (5000, *target.shape)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn[:10], target.sample(10, seed=2))
    assert not torch.equal(drawn[:10], target.sample(10, seed=3))


@every_target
def test_moved_targets_answer_in_their_dtype(target):
    x = target.sample(4).float()
    assert target.score(x).dtype == torch.float32
    moved = target.to("cpu", torch.float64)
    assert moved.score(x).dtype == moved.log_prob(x).dtype == torch.float64
    torch.testing.assert_close(moved.score(x), target.score(x.double()), rtol=1e-12, atol=1e-12)
    assert type(moved) is type(target)


@pytest.mark.parametrize("name", ["ring", "pinwheel", "analysers"])
def test_responsibilities_are_bayes_rule(name):
    target, x = SMALL[name], noisy(SMALL[name], DATA)
    mixture = reference(target, DATA)
    joint = mixture.component_distribution.log_prob(x.flatten(1)[:, None]) + mixture.mixture_distribution.logits
    torch.testing.assert_close(target.responsibilities(x), joint.softmax(1), rtol=1e-9, atol=1e-12)
    shares = target.responsibilities(target.sample(20_000, seed=9).double()).mean(0)
    assert torch.all((shares - target.modes()).abs() < 4 * (target.modes() / 20_000).sqrt())


def test_decay_is_a_power_law_in_frequency():
    target = GaussianTarget(shape=(1, 8, 8), std=0.5, decay=3.0)
    _, covariance = target.moments()
    assert float(covariance.diagonal().mean()) == pytest.approx(0.25)
    # The cosine with k half-waves along a row is an eigenvector with variance in proportion to (1 + (k/2)^2)^(-3/2).
    position = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    variance = []
    for k in (0, 1, 4):
        wave = (math.pi * k * position).cos().repeat(8)
        variance.append(float(wave @ covariance @ wave / (wave @ wave)))
        torch.testing.assert_close(covariance @ wave, variance[-1] * wave)
    assert variance[1] / variance[0] == pytest.approx(1.25**-1.5)
    assert variance[2] / variance[0] == pytest.approx(5.0**-1.5)


@pytest.mark.parametrize("rows", [False, True], ids=["shared_level", "level_a_row"])
def test_no_tensor_has_batch_component_and_dimension(rows):
    target, batch = MNISTMFATarget(), 512
    components, factors, dim = target.mixture.factors.shape
    x = target.sample(batch)
    sigma = torch.full((batch, 1, 1, 1), 0.3) if rows else 0.3
    with Results() as results:
        target.score(x, Level(0.2, 0.9, sigma))
        target.log_prob(x, Level(0.2, 0.9, sigma))
    assert results.entries < batch * components * dim / 2
    if not rows:
        assert results.entries <= max(batch * dim, components * (factors + 1) * dim)


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("name", ["ring", "pinwheel", "analysers", "mnist"])
def test_no_number_is_denormal(name, level):
    """On some processors a product with denormal weights takes a hundred times as long."""
    target = MNISTMFATarget() if name == "mnist" else SMALL[name]
    x = noisy(target, level, 64).float()
    with Results() as results:
        target.score(x, level)
        target.log_prob(x, level)
    assert results.denormal == 0


def test_mnist_in_float32_is_that_in_float64():
    target = MNISTMFATarget()
    for sigma in (0.01, 0.1, 1.0):
        level = Level(0.1, 1.0, sigma)
        x = noisy(target, level, 64).float()
        exact, quick = target.score(x.double(), level), target.score(x, level)
        error = (quick - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        assert float(error.max()) < 1e-4


def test_mnist_is_as_its_file_says():
    target = MNISTMFATarget()
    components, factors, _ = target.mixture.factors.shape
    report, entropy = target.report, target.entropy()
    assert target.shape == (1, 28, 28)
    assert (components, factors) == (report["components"], report["factors"])
    assert components >= 32
    assert factors >= 12
    noise = target.mixture.noise.sqrt()
    assert float(noise.min()) == pytest.approx(report["floor"], rel=1e-6)
    assert float(noise.max()) == pytest.approx(report["ceiling"], rel=1e-6)
    density = target.log_prob(target.sample(512, seed=1).double())
    assert abs(entropy.value + float(density.mean())) < 4 * float(density.std()) / math.sqrt(512)


def test_mnist_held_out_likelihood_is_the_stated_one():
    data = Path(__file__).parents[3] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("no MNIST here")
    from scoresde_plugins.targets.mfa_fit import dequantized

    target = MNISTMFATarget()
    raw = (data / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    images = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, 1, 28, 28)
    density = target.log_prob(dequantized(images, target.report["seed"] + 2)[:2000].double())
    stated, stderr = target.report["held_out_log_likelihood"], target.report["held_out_stderr"]
    assert target.report["held_out_images"] == len(images) == 10_000
    assert abs(float(density.mean()) - stated) < 4 * float(density.std()) * math.sqrt(1 / 2000 - 1 / 10_000)
    assert float(density.std()) / 100 == pytest.approx(stderr, rel=0.1)


@pytest.fixture
def fitted(tmp_path):
    path = tmp_path / "small.safetensors"
    target = rounded(analysers())
    write(path, target, {"data": "made up", "held_out_log_likelihood": -1.5})
    return path, target


def test_a_file_keeps_the_target(fitted):
    path, target = fitted
    loaded = build(MFATarget, parse(f"mfa[file={path}]").params, "mfa")
    x = target.sample(8).double()
    torch.testing.assert_close(loaded.log_prob(x), target.log_prob(x), rtol=1e-13, atol=1e-13)
    assert loaded.entropy() == target.entropy()
    assert loaded.report["data"] == "made up"
    with pytest.raises(FileError, match="exists: remove it"):
        write(path, target, {})


def test_a_target_with_more_digits_than_the_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="more digits"):
        write(tmp_path / "x.safetensors", analysers(), {})


def metadata(**changes):
    known = {"format": "scoresde.mfa", "version": "1", "shape": "[2, 3]", "entropy": "1", "entropy_stderr": "0"}
    return known | {"report": "{}"} | changes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda path, tensors: path.unlink(), "does not exist", id="missing"),
        pytest.param(lambda path, tensors: path.write_bytes(b"PNG and so on"), "damaged", id="not_safetensors"),
        pytest.param(lambda path, tensors: path.write_bytes(path.read_bytes()[:-9]), "damaged", id="cut"),
        pytest.param(lambda path, tensors: save_file(tensors, path), "is not a fitted mixture", id="foreign"),
        pytest.param(
            lambda path, tensors: save_file(tensors, path, metadata(version="2")), "update scoresde", id="newer"
        ),
        pytest.param(lambda path, tensors: save_file(tensors, path, metadata(shape="[7]")), "damaged", id="shape"),
        pytest.param(lambda path, tensors: save_file({}, path, metadata()), "damaged", id="no_tensors"),
        pytest.param(
            lambda path, tensors: save_file(tensors | {"means": tensors["means"] / 0}, path, metadata()),
            "means must be finite, got 18",
            id="infinite",
        ),
        pytest.param(
            lambda path, tensors: save_file(tensors | {"noise": -tensors["noise"]}, path, metadata()),
            "positive variances",
            id="negative_noise",
        ),
    ],
)
def test_an_unusable_file_is_one_sentence(fitted, spoil, message):
    path, _ = fitted
    spoil(path, load_file(path))
    with pytest.raises(FileError, match=message):
        MFATarget(file=str(path))


@pytest.mark.parametrize(
    ("cls", "spec", "message"),
    [
        pytest.param(GaussianTarget, "g[std=0.0]", "std must be positive", id="std"),
        pytest.param(GaussianTarget, "g[shape=[3],std=[1,2]]", "one number or 3", id="std_length"),
        pytest.param(GaussianTarget, "g[covariance=[[1,2],[2,1]]]", "smallest eigenvalue is -1", id="indefinite"),
        pytest.param(GaussianTarget, "g[covariance=[[1,0.5],[0.1,1]]]", "symmetric", id="asymmetric"),
        pytest.param(GaussianTarget, "g[covariance=[[1,0.5]]]", "2 rows of 2", id="not_square"),
        pytest.param(GaussianTarget, "g[shape=[0]]", "positive sizes", id="empty"),
        pytest.param(GaussianTarget, "g[decay=-1]", "must not be negative", id="decay"),
        pytest.param(Mixture2DTarget, "m[layout=grid,components=8]", "a square number .* got 8", id="grid"),
        pytest.param(Mixture2DTarget, "m[layout=moons,components=5]", "even", id="moons"),
        pytest.param(Mixture2DTarget, "m[layout=rign]", "layout", id="layout"),
        pytest.param(Mixture2DTarget, "m[weights=[1,2]]", "8 positive numbers", id="weights"),
        pytest.param(Mixture2DTarget, "m[components=2,weights=[1,2],imbalance=2]", "are both given", id="both"),
        pytest.param(Mixture2DTarget, "m[std=-1]", "std", id="mixture_std"),
    ],
)
def test_parameters_out_of_range_say_what_to_do(cls, spec, message):
    with pytest.raises(UsageError, match=message):
        build(cls, parse(spec).params, "target")


def test_a_batch_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"events of shape \(2,\), got a batch of shape \(4, 3\)"):
        SMALL["ring"].score(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="one value or one per row"):
        SMALL["ring"].score(torch.zeros(4, 2), Level(0.0, torch.ones(3), 1.0))


def test_weights_can_fall_geometrically():
    weights = Mixture2DTarget(components=3, imbalance=4.0).modes()
    torch.testing.assert_close(weights, torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64) / 7)
