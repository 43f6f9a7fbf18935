"""The NCSN family, the noise-conditional classifier and the perceptron, against golden files and closed forms."""

import copy
import math
from itertools import pairwise
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from published_networks import REFERENCE, from_reference
from torch.nn import functional as F
from scoresde_core import components
from scoresde_core.errors import UsageError
from scoresde_core.score import level_of
from scoresde_core.sde import SDE, Level
from scoresde_plugins.networks.classifier import Classifier, WideBlock
from scoresde_plugins.networks.mlp import MLP
from scoresde_plugins.networks.ncsn import NCSN, NCSNv2
from scoresde_plugins.networks.refinenet import (
    ChainedPooling,
    ConditionalInstanceNormPlus,
    Fusion,
    InstanceNormPlus,
    PooledConv,
    VarianceNorm,
)
from scoresde_run.models.network import Network
from scoresde_run.models.network_score import NetworkScore

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "networks"
REFINENETS = [
    pytest.param(NCSN(nf=4, scales=5), id="ncsn"),
    pytest.param(NCSNv2(nf=4, scales=5, variant=64), id="ncsnv2-64"),
    pytest.param(NCSNv2(nf=4, scales=5, variant=128), id="ncsnv2-128"),
    pytest.param(NCSNv2(nf=4, scales=5, variant=256), id="ncsnv2-256"),
    pytest.param(NCSNv2(nf=4, scales=5, variant=64, norm="variance"), id="ncsnv2-variance"),
    pytest.param(NCSNv2(nf=4, scales=5, variant=64, norm="none", nonlinearity="swish"), id="ncsnv2-none"),
]


class VP(SDE):
    """beta from 0.1 to 20, linear."""

    def alpha(self, t):
        return (-0.05 * t - 4.975 * t**2).exp()

    def sigma(self, t):
        return (-torch.expm1(-0.1 * t - 9.95 * t**2)).sqrt()


class VE(SDE):
    """sigma from 0.01 to 50, geometric."""

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return 0.01 * 5000**t


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# Agreement with the published networks


@pytest.mark.parametrize("name", ["ncsn_ve_mnist", "ncsnv2_ve_cifar10"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=["integer", "float"])
def test_golden(name, dtype):
    if not (GOLDEN / f"{name}.pt").exists():
        pytest.skip("no shared/golden/networks")
    golden = torch.load(GOLDEN / f"{name}.pt", weights_only=False)
    network = from_reference(golden["model"], golden["config"])
    fresh = network.state_dict()
    assert list(fresh) == list(golden["state_dict"])
    if "sigmas" in fresh:
        torch.testing.assert_close(fresh["sigmas"], golden["state_dict"]["sigmas"], rtol=1e-7, atol=0)
    network.load_state_dict(golden["state_dict"])
    with torch.no_grad():
        output = network(golden["x"], golden["labels"].to(dtype))
    # Row by row: rows of one file differ by orders of magnitude, as their noise scales do.
    error = (output - golden["output"]).abs().flatten(1).amax(1) / golden["output"].abs().flatten(1).amax(1)
    assert error.max() < 1e-5


@pytest.mark.parametrize(("variant", "millions"), [(64, 29.69), (128, 83.45)])
def test_published_size(variant, millions):
    with torch.device("meta"):
        network = NCSNv2(variant=variant).build((3, variant, variant))
    assert round(parameters(network) / 1e6, 2) == millions


def test_size_of_256():
    """Over 128: a residual stage (4 convolutions of 2nf, a 1x1 shortcut, 4 norms) and a refinement block (2 + 2 + 1
    RCUs less two, 2 fusions, 2 poolings)."""
    nf = 6
    wide = 2 * nf
    stage = 4 * (9 * wide**2 + wide) + (wide**2 + wide) + 4 * 3 * wide
    refine = (2 * 2 * 2 + 2) * 9 * wide**2 + 2 * (9 * wide**2 + wide) + 2 * 9 * wide**2
    small, large = (NCSNv2(nf=nf, variant=variant).build((3, 64, 64)) for variant in (128, 256))
    assert parameters(large) - parameters(small) == stage + refine


@pytest.mark.parametrize(("side", "variant"), [(28, 64), (95, 64), (96, 128), (128, 128), (129, 256), (256, 256)])
def test_auto_takes_the_published_depth(side, variant):
    with torch.device("meta"):
        auto = NCSNv2(nf=4).build((1, 16, side)).state_dict()
        assert list(auto) == list(NCSNv2(nf=4, variant=variant).build((1, 16, side)).state_dict())


SCORE_SDE_CONFIG = {
    "data": {"image_size": 32, "num_channels": 3, "centered": False},
    "model": {"nf": 4, "num_scales": 7, "sigma_max": 90, "sigma_min": 0.01, "nonlinearity": "elu"},
}
NCSN_CONFIG = {
    "data": {"image_size": 32, "channels": 3, "logit_transform": False, "rescaled": False},
    "model": {"ngf": 4, "num_classes": 7, "sigma_begin": 90, "sigma_end": 0.01, "nonlinearity": "ELU"},
}


@pytest.mark.parametrize("model", REFERENCE)
def test_both_published_field_names_mean_the_same(model):
    one, other = from_reference(model, SCORE_SDE_CONFIG), from_reference(model, NCSN_CONFIG)
    other.load_state_dict(one.state_dict())
    x, label = torch.rand(2, 3, 32, 32), torch.tensor([0, 6])
    torch.testing.assert_close(one(x, label), other(x, label), rtol=0, atol=0)


def test_reference_in_double_precision_keeps_float32():
    """Published tables of noise scales may be float64, which made every input of the wrong type there."""
    network = from_reference("ncsnv2_64", SCORE_SDE_CONFIG)
    state = {name: v.double() if name == "sigmas" else v for name, v in network.state_dict().items()}
    network.load_state_dict(state)
    assert network.sigmas.dtype == network(torch.rand(1, 3, 32, 32), torch.tensor([0])).dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "change", "words"),
    [
        ("ncsnv3", {}, "ncsnv3"),
        ("NCSNv2", {"normalization": "BatchNorm"}, "BatchNorm"),
        ("NCSNv2", {"sigma_dist": "uniform"}, "uniform"),
    ],
)
def test_reference_that_is_not_there(model, change, words):
    config = copy.deepcopy(NCSN_CONFIG)
    config["model"].update(change)
    with pytest.raises(ValueError, match=words):
        from_reference(model, config)


def test_reference_without_a_field():
    with pytest.raises(ValueError, match="ngf, nf"):
        from_reference("ncsn", {"model": {}, "data": {"image_size": 32, "channels": 1}})


# Norms and blocks


def instance_norm_plus(x, gamma, alpha, beta):
    """The formula of the paper, image by image, in numpy."""
    result = np.empty_like(x)
    for b, maps in enumerate(x):
        means = maps.mean((1, 2))
        m, v = means.mean(), means.var(ddof=1)
        for k, values in enumerate(maps):
            z = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
            z = z + alpha[b, k] * (means[k] - m) / np.sqrt(v + 1e-5)
            result[b, k] = gamma[b, k] * z + beta[b, k]
    return result


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_instance_norm_plus_is_the_formula(conditional):
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64) * 2 + torch.randn(3, 6, 1, 1, dtype=torch.float64)
    index = torch.tensor([2, 0, 2])
    if conditional:
        norm = ConditionalInstanceNormPlus(6, 4).double()
        torch.nn.init.normal_(norm.embed.weight)
        rows = norm.embed.weight[index].detach().numpy()
        gamma, alpha, beta = rows[:, :6], rows[:, 6:12], rows[:, 12:]
    else:
        norm = InstanceNormPlus(6).double()
        torch.nn.init.normal_(norm.beta)
        gamma, alpha, beta = (p.detach().numpy()[None].repeat(3, 0) for p in (norm.gamma, norm.alpha, norm.beta))
    expected = instance_norm_plus(x.numpy(), gamma, alpha, beta)
    np.testing.assert_allclose(norm(x, index).detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: norm(x, index), x[:, :, :2, :3].clone().requires_grad_(), atol=1e-6)


def test_instance_norm_plus_with_large_means():
    """Where means dwarf the spread, only the last bit of a mean (2^-23 of 300) may count, over their spread of 1/8."""
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64) + 300
    norm = InstanceNormPlus(4)
    error = norm(x.float()) - copy.deepcopy(norm).double()(x)
    assert error.abs().max() < 300 * 2**-23 * 8


def test_norms_start_as_published():
    norm = ConditionalInstanceNormPlus(500, 20)
    gamma_alpha, beta = norm.embed.weight[:, :1000], norm.embed.weight[:, 1000:]
    assert abs(gamma_alpha.mean() - 1) < 1e-3
    assert abs(gamma_alpha.std() - 0.02) < 1e-3
    assert not beta.any()


def test_variance_norm_keeps_the_mean():
    x, norm = torch.randn(2, 3, 4, 5).double() + 1, VarianceNorm(3).double()
    torch.testing.assert_close(
        norm(x), norm.alpha[:, None, None] * x / (x.var((2, 3), keepdim=True) + 1e-5).sqrt(), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(6, 4), (7, 4), (5, 9)])
def test_pooled_convolution(kernel, height, width):
    """Convolution, then the mean of 2x2 pixels; an odd side is filled with zeros at its start."""
    layer = PooledConv(3, 2, kernel).double()
    x = torch.randn(2, 3, height, width).double()
    filled = torch.zeros(2, 3, height + height % 2, width + width % 2).double()
    filled[:, :, height % 2 :, width % 2 :] = x
    full = F.conv2d(filled, layer.conv.weight, layer.conv.bias, padding=kernel // 2)
    quarters = full[:, :, ::2, ::2] + full[:, :, 1::2, ::2] + full[:, :, ::2, 1::2] + full[:, :, 1::2, 1::2]
    torch.testing.assert_close(layer(x), quarters / 4, rtol=1e-10, atol=1e-12)


def test_fusion_enlarges_with_aligned_corners():
    """A ramp stays a ramp from corner to corner, whatever the two sizes."""
    fusion = Fusion([1, 1], 1, lambda channels: PassThrough())
    for conv in fusion.convs:
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    coarse = torch.linspace(0, 1, 3).expand(1, 1, 4, 3)
    fused = fusion([torch.zeros(1, 1, 7, 5), coarse], None)
    torch.testing.assert_close(fused, torch.linspace(0, 1, 5).expand(1, 1, 7, 5))


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_chained_pooling_is_the_formula(kind):
    """act(x), its pooled copy and the pooled copy of that; the border counts as zeros for the mean, not for the max."""
    chain = ChainedPooling(1, lambda channels: PassThrough(), torch.nn.ReLU(), kind)
    for conv in chain.convs:
        torch.nn.init.dirac_(conv.weight)

    def pool(x):
        filled = np.pad(x, 2, constant_values=-np.inf if kind == "max" else 0)
        windows = np.lib.stride_tricks.sliding_window_view(filled, (5, 5))
        return windows.max((2, 3)) if kind == "max" else windows.mean((2, 3))

    x = torch.randn(1, 1, 6, 9)
    start = x[0, 0].clamp_min(0).double().numpy()
    expected = start + pool(start) + pool(pool(start))
    np.testing.assert_allclose(chain(x, None)[0, 0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


class PassThrough(torch.nn.Module):
    def forward(self, x, index):
        return x


# Whole networks


@pytest.mark.parametrize("network", REFINENETS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (5, 16, 24), (3, 27, 33)], ids=str)
def test_every_image_goes_there_and_back(network: Network, shape):
    module = network.build(shape)
    x = torch.rand(2, *shape, requires_grad=True)
    output = module(x, torch.tensor([0.0, 4.0]))
    assert output.shape == x.shape
    assert output.dtype == torch.float32
    output.square().sum().backward()
    assert x.grad.abs().sum() > 0
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.any(), name


@pytest.mark.parametrize("network", REFINENETS)
def test_rows_do_not_see_each_other(network):
    """The same image gives the same score in any batch."""
    module, x, label = network.build((1, 16, 16)), torch.rand(3, 1, 16, 16), torch.tensor([1, 3, 2])
    torch.testing.assert_close(module(x, label)[1:2], module(x[1:2], label[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [NCSN(nf=4, centered=True), NCSNv2(nf=4, centered=True)], ids=["ncsn", "ncsnv2"])
def test_centered_says_where_the_data_lie(network):
    module, x, label = network.build((1, 16, 16)), torch.rand(2, 1, 16, 16), torch.tensor([1, 3])
    expected = module(2 * x - 1, label)
    module.centered = False
    torch.testing.assert_close(module(x, label), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("variant", "stages"),
    [
        (64, [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4)]),
        (128, [(1, 1, 1), (2, 2, 1), (2, 4, 1), (4, 4, 2), (4, 4, 4)]),
        (256, [(1, 1, 1), (2, 2, 1), (2, 4, 1), (2, 8, 1), (4, 8, 2), (4, 8, 4)]),
    ],
)
def test_stages_are_those_of_the_paper(variant, stages):
    """Channels in nf, how far the image is reduced, and the spacing of taps, from the finest stage to the coarsest."""
    module, seen = NCSNv2(nf=3, variant=variant).build((1, 32, 48)), []
    for stage in module.stages:
        block = module.get_submodule(stage.name)[1]
        block.register_forward_hook(
            lambda block, inputs, h: seen.append((h.shape[1] / 3, 32 / h.shape[2], block.conv2.dilation[0]))
        )
    module(torch.rand(1, 1, 32, 48), torch.tensor([0]))
    assert seen == stages


def test_ncsn_labels_choose_their_coefficients():
    """Changing one level's coefficients changes the score at that level, and at no other."""
    module, x = NCSN(nf=4, scales=3).build((1, 8, 8)), torch.rand(3, 1, 8, 8)
    label = torch.arange(3.0)
    before = module(x, label)
    assert not torch.allclose(before[0], module(x[:1], label[1:2])[0], rtol=1e-3)
    with torch.no_grad():
        module.res2[0].normalize1.embed.weight[1] += 0.5
    after = module(x, label)
    assert not torch.allclose(before[1], after[1], rtol=1e-3)
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]])


def test_ncsnv2_divides_by_the_noise_scale():
    network = NCSNv2(nf=4, scales=5, sigma_max=40, sigma_min=0.04)
    module, x = network.build((1, 8, 8)), torch.rand(1, 1, 8, 8).expand(5, 1, 8, 8)
    sigmas = 40 * 0.001 ** (torch.arange(5) / 4)
    torch.testing.assert_close(module.sigmas, sigmas)
    plain = NCSNv2(nf=4, scales=5, scale_by_sigma=False).build((1, 8, 8))
    told = NCSNv2(nf=4, scales=5, label="sigma").build((1, 8, 8))
    plain.load_state_dict(module.state_dict())
    told.load_state_dict(module.state_dict())
    expected = plain(x, torch.arange(5)) / sigmas[:, None, None, None]
    torch.testing.assert_close(module(x, torch.arange(5.0)), expected)
    torch.testing.assert_close(told(x, sigmas), expected)


@pytest.mark.parametrize("label", ["reverse_index", "sigma"])
def test_ncsnv2_as_a_score_model(label):
    """The division sees the noise scale of the level that is asked for."""
    network = NCSNv2(nf=4, scales=11, label=label)
    module, x, sde = network.build((1, 8, 8)), torch.rand(2, 1, 8, 8), VE()
    model = NetworkScore(module, sde, parameterisation=network.parameterisation, label=network.label, scales=11)
    high, low = (model.score(x, sde.level(torch.tensor(t, dtype=torch.float64))) for t in (0.9, 0.2))
    torch.testing.assert_close(low, high * 5000**0.7, rtol=1e-4, atol=0)


def test_autocast_stays_near_float32():
    module, x = NCSNv2(nf=8).build((3, 16, 16)), torch.rand(4, 3, 16, 16)
    label = torch.tensor([0, 100, 200, 231])
    exact = module(x, label)
    with torch.autocast("cpu", torch.bfloat16):
        near = module(x, label)
    error = (near - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert error.max() < 0.05


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (NCSN(), (2,), r"\(2,\)"),
        (NCSNv2(), (2,), r"\(2,\)"),
        (NCSN(), (1, 2, 2), "2x2.*exceed 2"),
        (NCSNv2(variant=256), (3, 8, 8), "8x8.*exceed 8"),
        (NCSNv2(), (3, 512, 512), "variant=256"),
        (NCSNv2(), (0, 32, 32), r"\(0, 32, 32\)"),
        (Classifier(), (784,), r"\(784,\)"),
        (Classifier(mean=(0.5,)), (3, 8, 8), "mean has 1 values for images of 3 channels"),
        (MLP(), (), r"\(\)"),
    ],
)
def test_unusable_shapes(network, shape, words):
    with pytest.raises(ValueError, match=words):
        network.build(shape)


@pytest.mark.parametrize(
    ("cls", "params", "words"),
    [
        (NCSN, {"nf": 1}, "nf"),
        (NCSN, {"nonlinearity": "tanh"}, "tanh"),
        (NCSN, {"label": "sigma"}, "label"),
        (NCSNv2, {"sigma_min": 50.0}, r"sigma_min \(50.0\)"),
        (NCSNv2, {"variant": 512}, "variant"),
        (NCSNv2, {"label": "time"}, "label"),
        (Classifier, {"multiplier": 9}, "144 channels"),
        (Classifier, {"std": (0.2, 0.0, 0.2)}, "std"),
        (Classifier, {"parameterisation": "score"}, "parameterisation"),
        (MLP, {"features": 7}, "even.*7"),
        (MLP, {"width": 0}, "width"),
    ],
)
def test_unusable_parameters(cls, params, words):
    with pytest.raises(UsageError, match=words):
        components.build(cls, params, cls.__name__.lower())


@pytest.mark.parametrize("text", ["ncsnv2[variant=128,nf=4]", "ncsnv2[variant=auto,label=sigma]"])
def test_parameters_as_typed(text):
    spec = components.parse(text)
    assert components.build(NCSNv2, spec.params, "ncsnv2") == NCSNv2(**spec.params)


@pytest.mark.parametrize("cls", [NCSN, NCSNv2, Classifier, MLP])
def test_every_parameter_has_help(cls):
    assert all(parameter.help for parameter in components.parameters(cls))


# The classifier


def test_classifier_size_is_that_of_the_wide_resnet():
    widths = [16] + 4 * [160] + 4 * [320] + 4 * [640]
    blocks = sum(9 * a * b + 9 * b * b + 513 * b + 2 * a + 2 * b for a, b in pairwise(widths))
    ends = 9 * 3 * 16 + 2 * 640 + 641 * 10 + 257 * 512 + 513 * 512
    with torch.device("meta"):
        assert parameters(Classifier().build((3, 32, 32))) == blocks + ends


@pytest.fixture(scope="module")
def small():
    return Classifier(blocks_per_group=1, multiplier=1, classes=4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (5, 9, 14), (3, 1, 1)], ids=str)
def test_classifier_reads_any_image(small, shape):
    module = small.build(shape)
    x, label = torch.rand(3, *shape, requires_grad=True), torch.tensor([0.01, 1.0, 50.0])
    logits = module(x, label)
    assert logits.shape == (3, 4)
    logits.log_softmax(1)[:, 0].sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_classifier_is_told_the_noise(small):
    module, x = small.build((1, 8, 8)), torch.rand(1, 1, 8, 8)
    assert not torch.allclose(module(x, torch.tensor([0.1])), module(x, torch.tensor([0.2])), rtol=1e-2)


def test_classifier_standardises_each_image(small):
    """Brightness and contrast do not matter, and a flat image is no division by zero."""
    module, x, label = small.build((1, 8, 8)), torch.rand(2, 1, 8, 8), torch.ones(2)
    torch.testing.assert_close(module(5 * x - 3, label), module(x, label), rtol=1e-4, atol=1e-5)
    assert module(torch.full_like(x, 0.3), label).isfinite().all()


def test_classifier_statistics_come_before(small):
    """Channel statistics of the data undo themselves."""
    plain = Classifier(blocks_per_group=1, multiplier=1, classes=4, mean=(0, 0, 0), std=(1, 1, 1)).build((3, 8, 8))
    cifar = small.build((3, 8, 8))
    cifar.load_state_dict({**plain.state_dict(), "mean": cifar.mean, "std": cifar.std})
    x, label = torch.rand(2, 3, 8, 8), torch.ones(2)
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)
    torch.testing.assert_close(cifar(x, label), plain((x - mean) / std, label), rtol=1e-2, atol=1e-3)
    assert not torch.allclose(cifar(x, label), plain(x, label), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 9, 14)], ids=str)
def test_classifier_without_pooling_begins_as_a_mean_with_weights_of_its_own(small, shape):
    """Given the pooled head's weights at every position, over their number, it is the pooled network."""
    pooled, whole = small.build(shape), attrs.evolve(small, pooling="none").build(shape)
    positions = whole.head.in_features // pooled.head.in_features
    assert positions == math.ceil(shape[1] / 4) * math.ceil(shape[2] / 4)
    assert 0.9 / math.sqrt(4) < whole.head.weight.abs().max() * positions <= 1 / math.sqrt(4)
    weight = pooled.head.weight.repeat_interleave(positions, 1) / positions
    whole.load_state_dict({**pooled.state_dict(), "head.weight": weight})
    x, label = torch.rand(3, *shape), torch.tensor([0.01, 1.0, 50.0])
    torch.testing.assert_close(whole(x, label), pooled(x, label), rtol=1e-4, atol=1e-5)


def test_classifier_knows_places_without_pooling_alone(small):
    """A bright square far from the borders, and the same square elsewhere: a mean over positions cannot tell."""
    x = torch.zeros(2, 1, 96, 96)
    x[0, :, 40:44, 40:44] = x[1, :, 52:56, 48:52] = 1
    for pooling, apart in (("mean", False), ("none", True)):
        logits = attrs.evolve(small, pooling=pooling).build((1, 96, 96))(x, torch.ones(2))
        assert torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-6) != apart


@pytest.mark.parametrize("side", [6, 7], ids=["even", "odd"])
def test_classifier_block_pads_and_pools(side):
    """Stride 2 starts at the first pixel; the shortcut is the mean of what is there, then zero channels."""
    block = WideBlock(4, 8, 2, share_norm=False)
    torch.nn.init.zeros_(block.dense.weight)
    tap = side % 2  # "same" padding at stride 2: an odd side has one row of zeros before it, an even one none
    torch.nn.init.zeros_(block.conv1.weight)
    with torch.no_grad():
        block.conv1.weight[range(4), range(4), tap, tap] = 1
    seen = []
    block.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, side, side)
    output = block(x, torch.zeros(2, 512))
    torch.testing.assert_close(seen[0][:, :4], F.relu(block.normalize1(x))[:, :, ::2, ::2])
    pooled = torch.stack(
        [x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in range(0, side, 2) for j in range(0, side, 2)]
    )
    torch.testing.assert_close(output[:, :4].flatten(2), pooled.permute(1, 2, 0))
    assert not output[:, 4:].any()


def test_classifier_starts_as_published():
    module = Classifier(blocks_per_group=1, multiplier=8, classes=100).build((3, 8, 8))
    conv = module.blocks[2].conv2.weight
    assert abs(conv.std() / math.sqrt(2 / (512 * 9)) - 1) < 0.01
    dense = module.blocks[2].dense.weight
    assert abs(dense.std() * math.sqrt(512) - 1) < 0.01
    assert 0.099 < module.head.weight.abs().max() <= 0.1
    assert abs(module.head.weight.std() * math.sqrt(3) - 0.1) < 1e-3
    assert "frequencies" not in dict(module.named_parameters())


def test_classifier_learns():
    """Which half is brighter, under noise: easy at sigma 0.1, and the classifier is less sure at sigma 10."""
    module = Classifier(blocks_per_group=1, multiplier=1, classes=2).build((1, 8, 8))
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)

    def batch(sigma):
        y = torch.randint(2, sigma.shape)
        x = torch.zeros(len(y), 1, 8, 8)
        x[y == 0, :, :, :4], x[y == 1, :, :, 4:] = 1, 1
        return x + sigma[:, None, None, None] * torch.randn_like(x), y

    for _ in range(60):
        sigma = 0.1 * 100 ** torch.rand(64)
        x, y = batch(sigma)
        loss = F.cross_entropy(module(x, sigma), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = {s: F.cross_entropy(module(x, sigma), y) for s, sigma, x, y in _cases(batch)}
    assert losses[0.1] < 0.05
    assert 0.5 < losses[10.0] < 0.8


def _cases(batch):
    for s in (0.1, 10.0):
        sigma = torch.full((500,), s)
        yield s, sigma, *batch(sigma)


# The perceptron


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 4, 2)], ids=str)
@pytest.mark.parametrize("embedding", ["sinusoidal", "fourier"])
def test_mlp_takes_any_event(shape, embedding):
    module = MLP(width=8, depth=2, embedding=embedding).build(shape)
    x = torch.randn(5, *shape, requires_grad=True)
    output = module(x, torch.rand(5) * 999)
    assert output.shape == x.shape
    output.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("t", 0.25),
        ("time", 0.25 * 999),
        ("index", 0.25 * 100),
        ("reverse_index", 25),
        ("sigma", math.e),
        ("log_ratio", 0.25),
    ],
)
def test_mlp_labels_mean_the_same(label, value):
    """One quarter of the way is one quarter in every unit; log(sigma) is in units of four."""
    reference = MLP(label="t", width=8).build((2,))
    module = MLP(label=label, scales=101, width=8).build((2,))
    module.load_state_dict(reference.state_dict())
    x = torch.randn(3, 2)
    shrunk = x / math.sqrt(1 + math.e**2) if label == "sigma" else x
    expected = reference(shrunk, torch.full((3,), 0.25))
    torch.testing.assert_close(module(x, torch.full((3,), float(value))), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sde", "network"),
    [
        pytest.param(VP(), MLP(width=64, depth=2), id="vp"),
        pytest.param(VE(), MLP(width=64, depth=2, label="sigma"), id="ve"),
    ],
)
def test_mlp_learns_the_score_of_a_gaussian(sde, network):
    """Denoising score matching leads to the exact score, within half a per cent, in seconds."""
    mean, root = torch.tensor([0.6, -0.4]), torch.tensor([[0.8, 0.0], [0.5, 0.4]])
    module = network.build((2,))
    model = NetworkScore(module, sde, parameterisation=network.parameterisation, label=network.label)
    optimizer = torch.optim.Adam(module.parameters(), 4e-3)
    steps = 500
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)

    def draw(n):
        x0, noise = mean + torch.randn(n, 2) @ root.T, torch.randn(n, 2)
        level = level_of(sde, 0.001 + 0.999 * torch.rand(n), x0)
        return level.alpha * x0 + level.sigma * noise, noise, level

    for _ in range(steps):
        x, noise, level = draw(256)
        loss = (model.noise(x, level) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, _, level = draw(5000)
    exact = level.sigma * gaussian_residual(x, level, mean, root @ root.T)
    with torch.no_grad():
        error = (model.noise(x, level) - exact).square().mean() / exact.square().mean()
    assert error < 0.005


def gaussian_residual(x, level: Level, mean, covariance):
    """-score of N(alpha mean, alpha^2 covariance + sigma^2 I)."""
    total = level.alpha[..., None] ** 2 * covariance + level.sigma[..., None] ** 2 * torch.eye(2)
    return torch.linalg.solve(total, (x - level.alpha * mean)[..., None])[..., 0]
