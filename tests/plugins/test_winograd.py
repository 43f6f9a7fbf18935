"""Winograd's 3x3 convolution against the definition."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vmap

from scoresde_plugins.networks import winograd
from scoresde_plugins.networks.unet import NCSNpp
from scoresde_plugins.networks.winograd import Conv3x3, convolve, pays, transform


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def a_layer(inputs: int = 192, outputs: int = 192) -> Conv3x3:
    torch.manual_seed(1)
    return Conv3x3(inputs, outputs)


@pytest.mark.parametrize("piece", [winograd.PIECE, 3 * 16 * 5 * 15, 1], ids=["whole", "bands of 3 rows", "of one"])
@pytest.mark.parametrize("shape", [(1, 7, 2, 2), (3, 7, 8, 10), (2, 7, 10, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_definition(shape, bias, piece, monkeypatch):
    monkeypatch.setattr(winograd, "PIECE", piece)
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(8, 7, 3, 3, dtype=torch.float64)
    b = torch.randn(8, dtype=torch.float64) if bias else None
    assert distance(convolve(x, transform(weight), b), F.conv2d(x, weight, b, padding=1)) < 1e-14


def test_its_rounding_is_that_of_the_definition():
    layer, x = a_layer(256, 256).requires_grad_(False), F.silu(torch.randn(4, 256, 16, 16))
    truth = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    ours, usual = convolve(x, transform(layer.weight), layer.bias), F.conv2d(x, layer.weight, layer.bias, padding=1)
    assert distance(ours, truth) < 1e-6
    assert distance(ours, truth) < 3 * distance(usual, truth)


def test_a_layer_takes_it_where_it_pays_and_only_there():
    layer, x = a_layer(), torch.randn(2, 192, 8, 8)
    with torch.no_grad():
        assert pays(x, layer.weight)
        assert not pays(x[:, :, :7], layer.weight)  # a side that tiles of two do not fill
        assert not pays(x[..., :4], layer.weight)  # too few pixels for so large a kernel
        assert pays(x[:1], layer.weight)  # whatever its company, an image goes one way
        assert not pays(x[:, :16], layer.weight[:, :16])  # too few channels
        assert not pays(x.double(), layer.weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not pays(x, layer.weight)
    assert not pays(x, layer.weight)  # a gradient is asked for


def test_a_gradient_passes_as_through_any_convolution():
    layer, x = a_layer(), torch.randn(2, 192, 8, 8, requires_grad=True)
    with torch.no_grad():
        fast = layer(x)
    out = layer(x)
    assert distance(fast, out.detach()) < 1e-6
    (ours,) = torch.autograd.grad(out.sum(), x)
    (theirs,) = torch.autograd.grad(F.conv2d(x, layer.weight, layer.bias, padding=1).sum(), x)
    assert torch.equal(ours, theirs)


CHANGES = {
    "in place": lambda layer: layer.weight.mul_(2),
    "through data": lambda layer: layer.weight.data.mul_(2),
    "by an average": lambda layer: torch._foreach_lerp_([layer.weight], [3 * layer.weight], 0.5),
    "loaded": lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": 2 * layer.weight}),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(2 * layer.weight)),
    "through data, its sum kept": lambda layer: layer.weight.data.copy_(layer.weight.flip(0)),
    "through data, mirrored": lambda layer: layer.weight.data.copy_(layer.weight.flip(3)),
    "through data, inputs in another order": lambda layer: layer.weight.data.copy_(layer.weight.flip(1)),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
@pytest.mark.parametrize("bits", [30, 8])
def test_a_changed_weight_is_seen(change, bits):
    """Also of weights so coarse that sums of them are exact, in whatever order."""
    layer, x = a_layer(), torch.randn(2, 192, 8, 8)
    layer.weight.data.mul_(2**bits).round_().div_(2**bits)
    layer(x)
    CHANGES[change](layer)
    assert distance(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1)) < 1e-6


@torch.inference_mode()
def test_weights_without_a_version_are_taken_too():
    layer, x = a_layer(), torch.randn(2, 192, 8, 8)
    assert layer.weight.is_inference()
    layer(x)
    layer.weight.mul_(2)
    assert distance(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1)) < 1e-6


@torch.no_grad()
def test_what_is_kept_is_no_part_of_the_state():
    layer, x = a_layer(), torch.randn(2, 192, 8, 8)
    keys = set(layer.state_dict())
    out = layer(x)
    assert set(layer.state_dict()) == keys == set(nn.Conv2d(192, 192, 3).state_dict())
    assert torch.equal(copy.deepcopy(layer)(x), out)
    assert len(pickle.dumps(layer)) == len(pickle.dumps(a_layer()))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_trace_holds_the_definition_whatever_was_computed_before():
    layer, x = a_layer(), torch.randn(4, 192, 8, 8)
    traced = torch.jit.trace(layer, x)
    layer.weight.mul_(2)
    larger = torch.randn(2, 192, 16, 16)
    assert distance(traced(larger), F.conv2d(larger, layer.weight, layer.bias, padding=1)) < 1e-6


@torch.no_grad()
def test_one_image_without_a_batch_is_taken_as_by_any_convolution():
    layer, x = a_layer(), torch.randn(192, 16, 16)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


def several(layer: Conv3x3, x: torch.Tensor) -> torch.Tensor:
    weights = {name: torch.stack([value, value]) for name, value in layer.named_parameters()}
    return vmap(lambda state: functional_call(layer, state, (x,)))(weights)[1]


def forward_derivative(layer: Conv3x3, x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x))).tangent + layer.bias[:, None, None]


USES = {
    "vmap": lambda layer, x: vmap(layer)(x[None].expand(2, *x.shape))[1],
    "vmap over weights": several,
    "jvp": lambda layer, x: jvp(layer, (x,), (x,))[0],
    "dual numbers": forward_derivative,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # torch's own, of forward derivatives
@pytest.mark.parametrize("use", USES)
@torch.no_grad()
def test_whatever_follows_operations_passes_as_through_any_convolution(use):
    layer, x = a_layer(), torch.randn(2, 192, 8, 8)
    truth = F.conv2d(x, layer.weight, layer.bias, padding=1)
    assert distance(USES[use](layer, x), truth) < 1e-6
    assert distance(layer(x), truth) < 1e-6


@torch.no_grad()
def test_tensors_without_values_leave_nothing_behind():
    layer, x = a_layer(), torch.randn(2, 192, 8, 8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == x.shape
    for _ in range(2):
        assert distance(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1)) < 1e-6
    assert layer._kernel is not None


def test_the_networks_take_it(monkeypatch):
    network, calls = NCSNpp(nf=96, ch_mult=(1, 2), num_res_blocks=1).build((3, 16, 16)).eval(), []
    monkeypatch.setattr(winograd, "convolve", lambda *given: calls.append(given) or convolve(*given))
    x, label = torch.randn(2, 3, 16, 16), torch.ones(2)
    with torch.no_grad():
        fast = network(x, label)
    assert calls
    taken = len(calls)
    assert distance(fast, network(x, label).detach()) < 1e-5
    assert len(calls) == taken
