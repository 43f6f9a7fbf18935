"""The U-Nets: published outputs and parameter counts, every option, labels and conditions, compilation, refusals."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import published_networks as reference
import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from scoresde_plugins.networks.layers import AttentionBlock, FIRConvDown, FIRConvUp
from scoresde_plugins.networks.unet import DDPM, DDPMpp, NCSNpp, UNet
from scoresde_plugins.song2021.sdes import VESDE
from scoresde_run.models.network_score import NetworkScore

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "networks"
FILES = [path for path in sorted(GOLDEN.rglob("*.pt")) if path.name.startswith(("ncsnpp", "ddpm"))]

TINY = NCSNpp(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.0, init_scale=1.0)
SCORE = {"parameterisation": "score", "label": "sigma"}
SHAPE = (3, 8, 8)


def tiny(shape: tuple[int, ...] = SHAPE, **changes: Any) -> UNet:
    torch.manual_seed(0)
    return evolve(TINY, **changes).build(shape).eval()


def batch(shape: tuple[int, ...] = SHAPE, seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)), torch.tensor([0.3, 7.0])


def relative(value: Tensor, truth: Tensor) -> float:
    value, truth = value.detach(), truth.detach()
    return float((value - truth).abs().max() / truth.abs().max())


# Published numbers.


@pytest.mark.skipif(not FILES, reason="golden files are not part of the repository")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_weights_give_the_published_output(path: Path) -> None:
    golden = torch.load(path, weights_only=True)
    network = reference.build_network(golden["model"], golden["config"]).eval()
    network.load_state_dict(golden["state_dict"])
    # Published averages of weights are ordered lists: the order of the parameters matters too.
    assert list(network.state_dict()) == list(golden["state_dict"])
    with torch.no_grad():
        output = network(golden["x"], golden["labels"])
    assert relative(output, golden["output"]) < 1e-5


DDPMPP = {"fir": False, "progressive_input": "none"}
LARGE = {**SCORE, "progressive": "output_skip", "progressive_input": "input_skip"}
PRESETS = {
    "ddpm cifar10": (DDPM(), 32, 35.22),
    "ddpm 256": (DDPM(ch_mult=(1, 1, 2, 2, 4, 4)), 256, 111.57),
    "ddpmpp": (NCSNpp(**DDPMPP), 32, 61.80),
    "ddpmpp deep": (NCSNpp(**DDPMPP, num_res_blocks=8), 32, 106.63),
    "ncsnpp positional": (NCSNpp(), 32, 62.69),
    "ncsnpp deep positional": (NCSNpp(num_res_blocks=8), 32, 107.52),
    "ncsnpp fourier": (NCSNpp(**SCORE), 32, 62.76),
    "ncsnpp deep fourier": (NCSNpp(**SCORE, num_res_blocks=8), 32, 107.59),
    "ncsnpp 256": (NCSNpp(**LARGE, num_res_blocks=2, ch_mult=(1, 1, 2, 2, 2, 2, 2)), 256, 65.57),
    "ncsnpp 1024": (NCSNpp(**LARGE, num_res_blocks=1, nf=16, ch_mult=(1, 2, 4, 8, 16, 32, 32, 32)), 1024, 105.79),
}


@pytest.mark.parametrize(("spec", "size", "millions"), PRESETS.values(), ids=PRESETS)
def test_parameter_counts_are_the_published_ones(spec: NCSNpp | DDPM, size: int, millions: float) -> None:
    with torch.device("meta"):
        network = spec.build((3, size, size))
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == millions


def published_config(sde: str, continuous: bool, **model: Any) -> dict[str, Any]:
    fields = {"nf": 8, "ch_mult": [1, 2], "num_scales": 7, "attn_resolutions": [4], "conv_size": 3, **model}
    data = {"num_channels": 1, "image_size": 8, "centered": False}
    return {"model": fields, "data": data, "training": {"sde": sde, "continuous": continuous}}


@pytest.mark.parametrize(
    ("sde", "continuous", "label", "parameterisation"),
    [
        ("vesde", True, "sigma", "score"),
        ("vesde", False, "reverse_index", "score"),
        ("vpsde", True, "time", "noise"),
        ("vpsde", False, "index", "noise"),
        ("subvpsde", True, "time", "noise"),
        ("subvpsde", False, "time", "noise"),
    ],
)
def test_reference_reads_the_label_rule(sde: str, continuous: bool, label: str, parameterisation: str) -> None:
    spec = reference.ncsnpp(published_config(sde, continuous, fir=False))
    assert (spec.label, spec.parameterisation) == (label, parameterisation)
    assert (spec.nf, spec.ch_mult, spec.scales, spec.centered, spec.fir) == (8, (1, 2), 7, False, False)


def test_reference_names_near_misses() -> None:
    with pytest.raises(ValueError, match=r"no published network is called 'ncsnp'.*'ncsnpp'"):
        reference.build_network("ncsnp", {})


def test_an_unconditional_network_loads_weights_that_would_have_read_the_label() -> None:
    conditional, network = tiny(), tiny(conditional=False)
    spare = {name: value for name, value in conditional.state_dict().items() if ".Dense_0." in name}
    # The list of the conditional network starts with the two layers of the embedding.
    spare = {f"all_modules.{int(name.split('.')[1]) - 2}.{name.split('.', 2)[2]}": v for name, v in spare.items()}
    state = {name: torch.randn_like(value) for name, value in network.state_dict().items()}
    network.load_state_dict({**state, **spare})
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict({**state, "all_modules.1.Dense_1.weight": torch.zeros(1)})


# Every option.

MATRIX = [
    {"resblock_type": block, "fir": fir, "progressive": out, "progressive_input": into, "progressive_combine": combine}
    for block, fir, out, (into, combine) in itertools.product(
        ("biggan", "ddpm"),
        (True, False),
        ("none", "output_skip", "residual"),
        (("none", "sum"), ("residual", "sum"), ("input_skip", "sum"), ("input_skip", "cat")),
    )
]
REST = {
    "no skip_rescale": {"skip_rescale": False},
    "no skip_rescale residual": {"skip_rescale": False, "progressive": "residual"},
    "unconditional": {"conditional": False},
    "unconditional fourier": {"conditional": False, **SCORE},
    "fourier of time": {"embedding_type": "fourier"},
    "trainable fourier": {**SCORE, "trainable_embedding": True},
    "positional sigma": {**SCORE, "embedding_type": "positional"},
    "resampling without conv": {"resblock_type": "ddpm", "resamp_with_conv": False, "fir": False},
    "elu": {"nonlinearity": "elu"},
    "relu": {"nonlinearity": "relu"},
    "lrelu": {"nonlinearity": "lrelu"},
    "short fir": {"fir_kernel": (1, 1), "progressive": "residual"},
    "odd fir": {"fir_kernel": (1, 2, 1), "progressive": "residual", "resblock_type": "ddpm"},
    "odd nf": {"nf": 20, "ch_mult": (1, 3)},
    "one level": {
        "ch_mult": (2,),
        "attn_resolutions": (8,),
        "progressive": "output_skip",
        "progressive_input": "input_skip",
    },
    "no attention": {"attn_resolutions": ()},
}


def check_forward_and_backward(network: UNet, shape: tuple[int, ...]) -> None:
    x, label = batch(shape)
    x.requires_grad_(True)
    output = network(x, label)
    assert output.shape == x.shape
    (output * torch.randn_like(output)).sum().backward()
    for name, value in [("x", x), *network.named_parameters()]:
        if value.requires_grad:
            assert value.grad is not None, f"{name} has no part in the output"
            assert value.grad.isfinite().all()
            assert value.grad.abs().max() > 0, f"{name} has no effect on the output"


@pytest.mark.parametrize("options", MATRIX, ids=lambda options: "-".join(map(str, options.values())))
def test_every_combination_runs_and_uses_every_parameter(options: dict[str, Any]) -> None:
    check_forward_and_backward(tiny(**options), SHAPE)


@pytest.mark.parametrize("options", REST.values(), ids=REST)
def test_every_other_option_runs_and_uses_every_parameter(options: dict[str, Any]) -> None:
    check_forward_and_backward(tiny(**options), SHAPE)


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 8, 8), (3, 8, 12), (2, 16, 4)], ids=str)
@pytest.mark.parametrize("progressive", ["none", "output_skip"])
def test_any_channels_and_sides(shape: tuple[int, ...], progressive: str) -> None:
    check_forward_and_backward(tiny(shape, progressive=progressive), shape)


SIDES = {
    "unet": {},
    "ddpm blocks": {"resblock_type": "ddpm"},
    "ddpm blocks without conv": {"resblock_type": "ddpm", "resamp_with_conv": False},
    "residual pyramids": {"progressive": "residual", "progressive_input": "residual"},
    "skips": {"progressive": "output_skip", "progressive_input": "input_skip"},
}


@pytest.mark.parametrize("shape", [(2, 8), (1, 4, 8, 2)], ids=str)
@pytest.mark.parametrize("options", SIDES.values(), ids=SIDES)
def test_signals_and_volumes(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    check_forward_and_backward(tiny(shape, attn_resolutions=(), **{**DDPMPP, **options}), shape)


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 4)], ids=str)
@pytest.mark.parametrize("options", SIDES.values(), ids=SIDES)
def test_a_side_along_which_nothing_changes_changes_nothing(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Kernels whose only taps stand in the middle of one more side, on an event repeated along it."""
    options = {"cond_channels": 1, "classes": 2, **SCORE, **DDPMPP, **options, "attn_resolutions": (4,)}
    fewer, more = tiny(shape, **options), tiny((*shape, 8), **options)
    with torch.no_grad():
        fewer.class_embedding.weight.normal_()
    state = more.state_dict()
    for name, value in fewer.state_dict().items():
        if state[name].shape == value.shape:
            state[name] = value
        else:
            state[name] = torch.zeros_like(state[name])
            state[name][..., state[name].shape[-1] // 2] = value
    more.load_state_dict(state)
    (x, label), known = batch(shape), {"class": torch.tensor([1, -1])}
    y = torch.randn(2, 1, *shape[1:], generator=torch.Generator().manual_seed(3))
    output = more(x[..., None].expand(2, *shape, 8), label, image=y[..., None].expand(2, 1, *shape[1:], 8), **known)
    expected = fewer(x, label, image=y, **known)
    assert relative(output, expected[..., None].expand_as(output)) < 1e-5


def test_the_unet_of_images_is_ddpmpp() -> None:
    shared = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "classes": 2}
    unet, plain = DDPMpp(**shared, dims=2).build(SHAPE).eval(), NCSNpp(**shared, **DDPMPP).build(SHAPE).eval()
    unet.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(unet(*batch()), plain(*batch()))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("kind", [FIRConvDown, FIRConvUp])
def test_residual_pyramids_join_the_features(kind: type[nn.Module], rescale: bool) -> None:
    network = tiny(progressive_input="residual", progressive="residual", skip_rescale=rescale)
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for module in network.all_modules:
        module.register_forward_hook(lambda module, inputs, output: seen.update({module: (inputs[0], output)}))
    network(*batch())
    layers = list(network.all_modules)
    (place,) = (place for place, layer in enumerate(layers) if isinstance(layer, kind))
    (_, features), (_, pyramid), (joined, _) = (seen[layer] for layer in layers[place - 1 : place + 2])
    torch.testing.assert_close(joined, (features + pyramid) / (math.sqrt(2) if rescale else 1))


@pytest.mark.parametrize("conditional", [True, False])
def test_ddpm_depends_on_the_label_only_when_conditional(conditional: bool) -> None:
    torch.manual_seed(0)
    network = (
        DDPM(nf=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), conditional=conditional).build(SHAPE).eval()
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, label = batch()
    assert torch.equal(network(x, label), network(x, label + 100)) is not conditional


def test_trainable_fourier_frequencies() -> None:
    frozen, trained = (tiny(**SCORE, trainable_embedding=trainable) for trainable in (False, True))
    assert [name for name, p in frozen.named_parameters() if not p.requires_grad] == ["all_modules.0.W"]
    assert all(p.requires_grad for p in trained.parameters())


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [((3, 32, 48), 5), ((3, 48, 32), 5), ((3, 32, 32), 5), ((3, 16, 64), 5)],
    ids=str,
)
def test_attention_stands_at_the_levels_of_its_resolutions(shape: tuple[int, ...], blocks: int) -> None:
    # At its level three going down and one going up, and always one in the middle.
    network = tiny(shape, attn_resolutions=(16,), num_res_blocks=3)
    assert sum(isinstance(module, AttentionBlock) for module in network.all_modules) == blocks


# The ends of the network: data range, sigma, condition.


def test_data_in_the_unit_interval_is_mapped_to_both_sides_of_zero() -> None:
    inside, outside = tiny(centered=False), tiny(centered=True)
    x, label = batch()
    assert torch.equal(inside(x, label), outside(2 * x - 1, label))


@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_a_score_is_divided_by_the_sigma_of_its_label(embedding: str) -> None:
    divided, raw = (tiny(**SCORE, embedding_type=embedding, scale_by_sigma=scale) for scale in (None, False))
    x, label = batch()
    assert torch.equal(divided(x, label), raw(x, label) / label[:, None, None, None])


def test_a_discrete_label_finds_its_sigma() -> None:
    options = {
        "parameterisation": "score",
        "label": "reverse_index",
        "scales": 5,
        "sigma_min": 0.01,
        "sigma_max": 100.0,
    }
    divided, raw = tiny(**options), tiny(**options, scale_by_sigma=False)
    assert divided.sigmas.dtype == torch.float32
    x, _ = batch()
    whole = torch.tensor([1.0, 4.0])  # the sigmas are 100, 10, 1, 0.1, 0.01
    # Also as an integer, and with a rounding error: the nearest place counts.
    for label in (whole, whole.long(), whole - 1e-4):
        expected = raw(x, label) / torch.tensor([10.0, 0.01])[:, None, None, None]
        torch.testing.assert_close(divided(x, label), expected, rtol=1e-6, atol=0)


def test_the_sigma_table_is_that_of_the_ve_sde() -> None:
    sde = VESDE(sigma_min=0.01, sigma_max=50.0)
    network = tiny(parameterisation="score", label="reverse_index", scales=7)
    seen: list[Tensor] = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(module.sigmas[inputs[1].long()]))
    model = NetworkScore(network, sde, parameterisation="score", label="reverse_index", scales=7)
    t = torch.linspace(0, 1, 7, dtype=torch.float64)[[6, 2]].float()
    model.score(batch()[0], sde.level(t[:, None, None, None]))
    torch.testing.assert_close(seen[0], sde.discrete_level(t, 7).sigma, rtol=1e-5, atol=0)


def test_a_condition_is_seen_beside_the_input() -> None:
    network = tiny(cond_channels=2, progressive_input="input_skip")
    x, label = batch()
    condition = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    output = network(x, label, cond_image=condition)
    assert output.shape == x.shape
    assert relative(network(x, label, cond_image=condition + 1), output) > 1e-3
    # Without the weights that read the condition this is the network without one.
    plain = tiny(progressive_input="input_skip")
    state = {
        name: value[:, :3] if value.shape != plain.state_dict()[name].shape else value
        for name, value in network.state_dict().items()
    }
    plain.load_state_dict(state)
    for parameter in network.parameters():
        if parameter.ndim == 4 and parameter.shape[1] == 5:
            parameter.data[:, 3:] = 0
    torch.testing.assert_close(network(x, label, cond_image=condition), plain(x, label), rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    network = tiny(dropout=0.5)
    x, label = batch()
    assert torch.equal(network(x, label), network(x, label))
    network.train()
    assert not torch.equal(network(x, label), network(x, label))


def test_a_new_network_is_almost_zero() -> None:
    network = tiny(init_scale=0.0)
    x, label = batch()
    assert network(x, label).abs().max() < 1e-3


def test_a_fourier_network_sees_the_logarithm_of_sigma() -> None:
    network = tiny(**SCORE)
    seen: list[Tensor] = []
    network.all_modules[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x, label = batch()
    network(x, label)
    torch.testing.assert_close(seen[0], torch.tensor([math.log(0.3), math.log(7.0)]))


# Derivatives, layout, precision, compilation.


def test_the_score_can_be_differentiated_twice_with_plain_attention() -> None:
    network = tiny()
    x, label = batch()
    x.requires_grad_(True)
    with sdpa_kernel(SDPBackend.MATH):
        (slope,) = torch.autograd.grad(network(x, label).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


def gradients(network: nn.Module, x: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    output = network(x, label)
    output.square().sum().backward()
    return output.detach(), {
        name.removeprefix("_orig_mod."): p.grad for name, p in network.named_parameters() if p.grad is not None
    }


def assert_parity(plain: nn.Module, other: nn.Module, x: Tensor, label: Tensor, tolerance: float) -> None:
    output, slopes = gradients(plain, x, label)
    other_output, other_slopes = gradients(other, x, label)
    assert relative(other_output, output) < tolerance
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    for name, slope in slopes.items():
        assert float((other_slopes[name] - slope).abs().max()) < tolerance * largest, name


@pytest.mark.parametrize("options", [SCORE, {"resblock_type": "ddpm", "progressive": "residual"}], ids=["ve", "ddpm"])
def test_channels_last_changes_neither_values_nor_gradients(options: dict[str, Any]) -> None:
    plain = tiny(**options)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    x, label = batch()
    assert_parity(plain, other, x, label, 1e-5)
    output = other(x.to(memory_format=torch.channels_last), label)
    assert relative(output, plain(x, label)) < 1e-5


def test_kernels_follow_the_layout_that_images_have_on_their_device() -> None:
    network = tiny()
    kernels = [p for p in network.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    away = network.to("meta")
    assert all(p.is_contiguous() for p in away.parameters())
    back = away.to_empty(device="cpu")
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in back.parameters() if p.ndim == 4)
    # A choice of one's own stands, on this device and on the way to another.
    assert all(p.is_contiguous() for p in back.to(memory_format=torch.contiguous_format).double().parameters())
    chosen = [p for p in back.to("meta", memory_format=torch.channels_last).parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in chosen)


def test_float64_agrees_with_float32() -> None:
    single = tiny()  # without Fourier features, whose large angles lose digits in float32
    double = copy.deepcopy(single).double()
    x, label = batch()
    assert relative(single(x, label), double(x.double(), label.double())) < 1e-5


def test_autocast_runs_in_bfloat16() -> None:
    network = tiny(**SCORE)
    x, label = batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, label)
    assert output.dtype == torch.float32  # the division by sigma
    assert relative(output, network(x, label)) < 16 * 2**-8


def test_the_whole_network_is_one_graph() -> None:
    plain = tiny(**SCORE)
    captured = torch.compile(copy.deepcopy(plain), backend="aot_eager", fullgraph=True)
    assert_parity(plain, captured, *batch(), 1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs a C++ compiler")
def test_compiled_code_agrees() -> None:
    plain = tiny(**SCORE, ch_mult=(1,), attn_resolutions=())  # there is always attention in the middle
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert_parity(plain, torch.compile(last, fullgraph=True), *batch(), 1e-5)


# Refusals.


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 28, 28), r"28x28 do not fit 4 levels.*divisible by 8: pad them to 32x32"),
        ((3, 32, 36), r"32x36 do not fit 4 levels.*pad them to 32x40"),
        ((2,), r"needs channels and one to three sides, got \(2,\)"),
        ((3, 24, 24), r"attn_resolutions=\[16\]: no level has 16; the levels of 24x24 events have 24, 12, 6, 3"),
        ((3, 16, 8), r"no level has 16; the levels of 16x8 events have 8, 4, 2, 1: choose among these, or \[\]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [NCSNpp, DDPM])
def test_unusable_shapes(kind: type[NCSNpp] | type[DDPM], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(nf=32).build(shape)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (DDPMpp(nf=32, dims=1), (1, 32, 32), r"dims=1 does not fit events of shape \(1, 32, 32\): set dims=2"),
        (DDPMpp(nf=32), (1, 30), r"events of 30 do not fit 4 levels.*pad them to 32"),
        (DDPMpp(nf=32), (1, 8, 8, 12), "8x8x12 do not fit 4 levels.*pad them to 8x8x16"),
        (DDPMpp(nf=32, attn_resolutions=(12,)), (1, 32), "no level has 12; the levels of 32 events have 32, 16, 8, 4"),
        (DDPMpp(nf=32), (1, 8, 8, 8, 8), "one to three sides"),
        (NCSNpp(nf=32), (1, 32), r"FIR filters need images \(C, H, W\), got \(1, 32\): set fir=false, or choose unet"),
        (NCSNpp(nf=32), (1, 8, 8, 8), "FIR filters need images"),
    ],
    ids=str,
)
def test_unusable_sides(spec: NCSNpp | DDPMpp, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec.build(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_resolutions": (8, 5, 3)}, r"attn_resolutions=\[8, 5, 3\]: no level has 3, 5; the levels of 8x8 events"),
        ({"nf": 36}, "144 channels cannot be split into 32 groups"),
        ({"scale_by_sigma": True}, r"scale_by_sigma needs parameterisation=score \(here noise\)"),
        ({"scale_by_sigma": True, "parameterisation": "score"}, r"\(here time\)"),
        ({"embedding_type": "fourier", "label": "index"}, "Fourier features need a continuous label, not index"),
        ({"fir_kernel": (1, -1)}, "positive sum"),
        ({"fir_kernel": (1,)}, "fir_kernel"),
        ({"ch_mult": ()}, "ch_mult"),
        ({"ch_mult": (1, 0)}, r"ch_mult=\[1, 0\]"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min=2.0 must be smaller than sigma_max=1.0"),
        ({"progressive": "input_skip"}, "progressive"),
        ({"nonlinearity": "gelu"}, "nonlinearity"),
        ({"dropout": 1.0}, "dropout"),
        ({"nf": 2}, "nf"),
    ],
    ids=str,
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evolve(TINY, **{"ch_mult": (1, 4), **options}).build(SHAPE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x, t: net(x[:, :, :7], t), r"7x8 do not fit 2 levels.*pad them to 8x8"),
        (lambda net, x, t: net(x, t[:1]), r"2 images need 2 labels, got labels of shape \(1,\)"),
        (lambda net, x, t: net(x, t[0]), r"got labels of shape \(\)"),
        (lambda net, x, t: net(x, t, cond_image=x), "'image', an image of 0 channels, got 3"),
    ],
    ids=["size", "labels", "scalar label", "condition"],
)
def test_unusable_calls(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tiny(), *batch())


def test_a_missing_condition_is_named() -> None:
    with pytest.raises(ValueError, match="'image', an image of 2 channels, got 0"):
        tiny(cond_channels=2)(*batch())


def test_one_condition_serves_all_and_any_other_number_is_refused() -> None:
    network, (x, label) = tiny(cond_channels=2), batch()
    one = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(network(x, label, one), network(x, label, one.repeat(2, 1, 1, 1)))
    for wrong in (one.repeat(3, 1, 1, 1), one[..., :4]):
        with pytest.raises(ValueError, match=r"does not fit x of shape \(2, 3, 8, 8\): give one of that size"):
            network(x, label, wrong)
