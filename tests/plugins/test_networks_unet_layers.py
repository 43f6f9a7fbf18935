"""The layers of the U-Nets against their formulas: resampling, attention, embeddings, initial values, layouts."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from scoresde_plugins.networks.layers import (
    ACTIVATIONS,
    NIN,
    NONLINEARITIES,
    AttentionBlock,
    BlockStyle,
    Blur,
    ConvDown,
    FIRConvDown,
    FIRConvUp,
    FIRDown,
    FIRUp,
    FourierEmbedding,
    Overwrite,
    ResidualBlock,
    conv,
    dense,
    group_norm,
    mean_down,
    positional_embedding,
)
from scoresde_plugins.networks.unet import NCSNpp

STYLE = BlockStyle(F.silu, embedding=32, biggan=True, dropout=0.0, min_group=4, scale=1.0, rescale=True)


def relative(value: Tensor, truth: Tensor) -> float:
    value, truth = value.detach(), truth.detach()
    return float((value - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize(
    ("weight", "fans", "scale"),
    [
        (conv(64, 32, 3).weight, (64 * 9, 32 * 9), 1.0),
        (conv(64, 32, 3, scale=0.0).weight, (64 * 9, 32 * 9), 1e-10),
        (dense(100, 300).weight, (100, 300), 1.0),
        (NIN(128, 64).W, (128, 64), 0.1),
    ],
    ids=["conv", "zero conv", "dense", "nin"],
)
def test_weights_start_uniform_over_the_mean_fan(weight: Tensor, fans: tuple[int, int], scale: float) -> None:
    weight, variance = weight.detach(), scale / (sum(fans) / 2)
    n = weight.numel()
    # A uniform law has variance a^2/3 and kurtosis 1.8: six standard errors of the sample's variance.
    assert float(weight.var()) == pytest.approx(variance, rel=6 * math.sqrt(0.8 / n))
    bound = math.sqrt(3 * variance)
    assert (1 - 20 / n) * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)


def test_group_norm_takes_32_groups_or_fewer() -> None:
    assert [group_norm(c).num_groups for c in (4, 16, 48, 128, 384)] == [1, 4, 12, 32, 32]
    assert [group_norm(c, 1).num_groups for c in (16, 32, 64)] == [16, 32, 32]


def zeros_inserted(x: Tensor) -> Tensor:
    """Pixels at even places, as many rows and columns again of zeros."""
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


def filtered(x: Tensor, taps: tuple[float, ...], before: int, after: int) -> Tensor:
    """The convolution with k k^T / (sum k)^2, one pixel at a time, of ``x`` with zeros around."""
    n = len(taps)
    k = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    x = F.pad(x, (before, after, before, after))
    height, width = x.shape[2] - n + 1, x.shape[3] - n + 1
    out = x.new_zeros(*x.shape[:2], height, width)
    for i, j in itertools.product(range(n), repeat=2):
        out += k[i] * k[j] * x[:, :, n - 1 - i : n - 1 - i + height, n - 1 - j : n - 1 - j + width]
    return out


TAPS = [(1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 3.0), (5.0, 1.0, 2.0, 0.5, 1.0), (1.0,) * 6]


@pytest.mark.parametrize("taps", TAPS, ids=str)
class TestFIR:
    x = torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def test_down(self, taps: tuple[float, ...]) -> None:
        spare = len(taps) - 2
        truth = filtered(self.x, taps, (spare + 1) // 2, spare // 2)[:, :, ::2, ::2]
        assert relative(FIRDown(taps)(self.x.float()), truth) < 1e-6

    def test_up(self, taps: tuple[float, ...]) -> None:
        spare = len(taps) - 2
        truth = 4 * filtered(zeros_inserted(self.x), taps, (spare + 1) // 2 + 1, spare // 2)
        assert relative(FIRUp(taps)(self.x.float()), truth) < 1e-6

    def test_conv_down(self, taps: tuple[float, ...]) -> None:
        layer = FIRConvDown(3, 4, taps)
        nn.init.normal_(layer.Conv2d_0.bias)
        blurred = filtered(self.x, taps, (len(taps) + 1) // 2, len(taps) // 2)
        truth = F.conv2d(blurred, layer.Conv2d_0.weight.double(), layer.Conv2d_0.bias.double(), stride=2)
        assert truth.shape[2:] == (3, 5)
        assert relative(layer(self.x.float()), truth) < 1e-6

    def test_conv_up(self, taps: tuple[float, ...]) -> None:
        layer = FIRConvUp(3, 4, taps)
        nn.init.normal_(layer.Conv2d_0.bias)
        sharp = F.conv2d(F.pad(zeros_inserted(self.x), (2, 1, 2, 1)), layer.Conv2d_0.weight.double())
        spare = len(taps) - 4
        truth = 4 * filtered(sharp, taps, (spare + 1) // 2 + 1, spare // 2 + 1)
        truth += layer.Conv2d_0.bias.double()[:, None, None]
        assert truth.shape[2:] == (12, 20)
        assert relative(layer(self.x.float()), truth) < 1e-6


def test_fir_keeps_a_constant_image_and_stays_out_of_checkpoints() -> None:
    x = torch.full((1, 2, 16, 16), 3.0)
    for layer in (FIRDown((1, 3, 3, 1)), FIRUp((1, 3, 3, 1)), Blur((1, 2, 1), 2)):
        assert not layer.state_dict()
        torch.testing.assert_close(layer(x)[:, :, 2:-2, 2:-2], torch.full_like(layer(x)[:, :, 2:-2, 2:-2], 3.0))


def test_a_strided_convolution_pads_the_far_edges() -> None:
    layer = ConvDown(1, 1)
    nn.init.ones_(layer.Conv_0.weight)
    output = layer(torch.ones(1, 1, 4, 4))
    assert torch.equal(output[0, 0], torch.tensor([[9.0, 6.0], [6.0, 4.0]]))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("biggan", [True, False], ids=["biggan", "ddpm"])
def test_residual_block(biggan: bool, rescale: bool) -> None:
    torch.manual_seed(0)
    style = evolve(STYLE, activation=F.relu, biggan=biggan, rescale=rescale)
    block = ResidualBlock(8, 12, style, mean_down() if biggan else None)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    p = dict(block.named_parameters())
    x, embedding = torch.randn(2, 8, 4, 6), torch.randn(2, 32)

    def norm(h: Tensor, layer: str, groups: int) -> Tensor:
        h = h.unflatten(1, (groups, -1))
        centred = h - h.mean((2, 3, 4), keepdim=True)
        h = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-6).sqrt()).flatten(1, 2)
        return h * p[f"{layer}.weight"][:, None, None] + p[f"{layer}.bias"][:, None, None]

    def halved(h: Tensor) -> Tensor:
        return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4 if biggan else h

    h = F.conv2d(halved(norm(x, "GroupNorm_0", 2).relu()), p["Conv_0.weight"], p["Conv_0.bias"], padding=1)
    h = h + (embedding @ p["Dense_0.weight"].T + p["Dense_0.bias"])[:, :, None, None]
    h = F.conv2d(norm(h, "GroupNorm_1", 3).relu(), p["Conv_1.weight"], p["Conv_1.bias"], padding=1)
    weight = p["Conv_2.weight"][:, :, 0, 0] if biggan else p["NIN_0.W"].T
    bias = p["Conv_2.bias"] if biggan else p["NIN_0.b"]
    shortcut = torch.einsum("oc,bchw->bohw", weight, halved(x)) + bias[:, None, None]
    assert relative(block(x, embedding), (shortcut + h) / (math.sqrt(2) if rescale else 1)) < 1e-5


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, STYLE)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 3, 5)
    n = F.group_norm(x, 2, block.GroupNorm_0.weight, block.GroupNorm_0.bias, eps=1e-6)
    nins = (block.NIN_0, block.NIN_1, block.NIN_2)
    q, k, v = (torch.einsum("bchw,cd->bdhw", n, nin.W).add(nin.b[:, None, None]).flatten(2) for nin in nins)
    weights = torch.einsum("bci,bcj->bij", q, k).div(math.sqrt(8)).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v)
    out = torch.einsum("bci,cd->bdi", mixed, block.NIN_3.W).add(block.NIN_3.b[:, None]).view_as(x)
    assert relative(block(x), (x + out) / math.sqrt(2)) < 1e-5


@pytest.mark.parametrize("size", [6, 7])
def test_positional_embedding(size: int) -> None:
    frequencies = [1.0, 1e-2, 1e-4]
    label = [0.5, 998.25]
    truth = [[f(w * t) for f in (math.sin, math.cos) for w in frequencies] + [0.0] * (size % 2) for t in label]
    torch.testing.assert_close(positional_embedding(torch.tensor(label), size), torch.tensor(truth), rtol=0, atol=5e-5)
    whole = positional_embedding(torch.tensor([0, 1]), size)
    assert torch.equal(whole, positional_embedding(torch.tensor([0.0, 1.0]), size))


def test_fourier_embedding() -> None:
    torch.manual_seed(0)
    layer = FourierEmbedding(4000, 16.0, trainable=False).double()
    assert float(layer.W.std()) == pytest.approx(16.0, rel=0.06)
    angle = 2 * math.pi * 0.25 * layer.W
    truth = torch.cat([angle.sin(), angle.cos()])[None]
    torch.testing.assert_close(layer(torch.tensor([0.25], dtype=torch.float64)), truth)


LAYERS = {
    "block": lambda: ResidualBlock(8, 16, STYLE),
    "block up": lambda: ResidualBlock(8, 8, STYLE, FIRUp((1, 3, 3, 1))),
    "block down": lambda: ResidualBlock(8, 8, STYLE, FIRDown((1, 3, 3, 1))),
    "attention": lambda: AttentionBlock(8, STYLE),
    "conv down": lambda: FIRConvDown(8, 16, (1, 3, 3, 1)),
    "conv up": lambda: FIRConvUp(8, 16, (1, 3, 3, 1)),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers_agree_in_both_layouts(make: Any) -> None:
    torch.manual_seed(0)
    plain = make()
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    x, rest = torch.randn(2, 8, 6, 4), (torch.randn(2, 32),) if isinstance(plain, ResidualBlock) else ()
    results = []
    for layer, layout in ((plain, torch.contiguous_format), (other, torch.channels_last)):
        image = x.detach().contiguous(memory_format=layout).requires_grad_(True)
        output = layer(image, *rest)
        output.square().sum().backward()
        assert output.is_contiguous(memory_format=layout)
        results.append([output, image.grad, *(parameter.grad for parameter in layer.parameters())])
    # Some gradients vanish: that of the keys' bias, to which a softmax is blind.
    largest = max(float(truth.detach().abs().max()) for truth in results[0][1:])
    assert relative(results[1][0], results[0][0]) < 1e-5
    for truth, value in zip(results[0][1:], results[1][1:], strict=True):
        assert float((value - truth).abs().max()) < 1e-5 * largest


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_activations_overwrite_only_where_no_gradient_is_recorded(name: str) -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    truth, activation = ACTIVATIONS[name]()(x), Overwrite(name)
    layer_output = x.clone().requires_grad_() + 0
    assert torch.equal(activation(layer_output), truth)
    assert torch.equal(layer_output, x)
    with torch.no_grad():
        taken = x.clone()
        out = activation(taken)
    assert torch.equal(out, truth)
    assert out.data_ptr() == taken.data_ptr()


def test_a_network_without_gradients_leaves_its_input_alone() -> None:
    """The same output with gradients and without, twice, from an image and labels that stay what they were."""
    network = (
        NCSNpp(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), init_scale=1.0).build((3, 8, 8)).eval()
    )
    generator = torch.Generator().manual_seed(0)
    x, label = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([0.3, 0.7])
    before, truth = (x.clone(), label.clone()), network(x, label).detach()
    with torch.no_grad():
        assert torch.equal(network(x, label), truth)
        assert torch.equal(network(x, label), truth)
    assert torch.equal(x, before[0])
    assert torch.equal(label, before[1])
