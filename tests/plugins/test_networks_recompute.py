"""Gradient checkpointing: bitwise the same results, with less memory, in training only."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from scoresde_plugins.networks.dit import DiT
from scoresde_plugins.networks.ncsn import NCSN, NCSNv2
from scoresde_plugins.networks.unet import DDPM, NCSNpp
from scoresde_run.models.network import Network

SHAPE = (3, 16, 16)
UNET = {"ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,), "dropout": 0.5}
NETWORKS: dict[str, Network] = {
    "ncsnpp": NCSNpp(nf=8, init_scale=1.0, **UNET),
    "both pyramids": NCSNpp(nf=8, init_scale=1.0, progressive="output_skip", progressive_input="input_skip", **UNET),
    "ddpm blocks": NCSNpp(nf=8, init_scale=1.0, resblock_type="ddpm", progressive="residual", **UNET),
    "unconditional": NCSNpp(nf=8, init_scale=1.0, conditional=False, **UNET),
    "ddpm": DDPM(nf=32, **UNET),
    "ncsn": NCSN(nf=4),
    "ncsnv2": NCSNv2(nf=4),
    "dit": DiT(width=32, depth=2, heads=2),
}


def pair(spec: Network) -> tuple[nn.Module, nn.Module]:
    """The network, and the same one that recomputes."""
    modules = []
    for recompute in (False, True):
        torch.manual_seed(0)
        modules.append(attrs.evolve(spec, recompute=recompute).build(SHAPE).train())  # type: ignore[call-arg]
        with torch.no_grad():
            for value in modules[-1].parameters():  # a new dit gives zero, without a gradient
                value.add_(0.05 * torch.randn_like(value))
    return modules[0], modules[1]


def slopes(module: nn.Module, **context: Any) -> tuple[list[Tensor], int]:
    """Output and gradients of the input and of every parameter, and the bytes stored to compute them."""
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    torch.manual_seed(2)  # of the dropout
    with saved_tensors_hooks(pack, lambda value: value), torch.autocast("cpu", torch.bfloat16, **context):
        output = module(x, torch.tensor([1.0, 3.0]))
    output.float().square().mean().backward()
    trained = [p.grad for p in module.parameters() if p.requires_grad]
    return [output.detach(), x.grad, *trained], sum(kept.values())  # type: ignore[list-item]


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(name: str, autocast: bool) -> None:
    (plain, most), (recomputed, least) = (slopes(module, enabled=autocast) for module in pair(NETWORKS[name]))
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert any(value.abs().max() > 0 for value in plain[2:])
    assert least < 0.6 * most


def calls_of_blocks(module: nn.Module) -> Counter[str]:
    """How often every convolution runs in one pass forward and back."""
    calls: Counter[str] = Counter()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    x = torch.randn(2, *SHAPE).requires_grad_(True)
    module(x, torch.tensor([1.0, 3.0])).square().sum().backward()
    return calls


@pytest.mark.parametrize("name", ["ncsnpp", "ncsnv2"])
def test_only_training_computes_twice(name: str) -> None:
    _, module = pair(NETWORKS[name])
    assert set(calls_of_blocks(module.eval()).values()) == {1}
    _, module = pair(NETWORKS[name])
    calls = calls_of_blocks(module)
    assert set(calls.values()) <= {1, 2}
    # All but the last convolution of every block.
    assert sum(calls.values()) > 1.5 * len(calls)


def test_with_recomputation_the_network_is_still_one_graph() -> None:
    torch.manual_seed(0)
    small = {"ch_mult": (1,), "attn_resolutions": (), "dropout": 0.0}
    spec = attrs.evolve(NETWORKS["ncsnpp"], recompute=True, **small)
    module = spec.build(SHAPE).train()
    captured = torch.compile(module, backend="aot_eager", fullgraph=True)
    x, label = torch.randn(2, *SHAPE), torch.tensor([1.0, 3.0])
    grads = []
    for network in (module, captured):
        module.zero_grad()
        network(x, label).square().sum().backward()
        grads.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    largest = max(float(grad.abs().max()) for grad in grads[0])
    assert math.isfinite(largest)
    assert all((a - b).abs().max() < 1e-5 * largest for a, b in zip(*grads, strict=True))
