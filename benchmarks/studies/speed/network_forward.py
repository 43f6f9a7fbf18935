"""Measures a forward pass of a preset's network in each precision and layout, and that of the published code.

    python benchmarks/studies/speed/network_forward.py
    python benchmarks/studies/speed/network_forward.py --preset vp_ddpm_cifar10_continuous --batch 32 --compile
    python benchmarks/studies/speed/network_forward.py --published ~/score_sde_pytorch
    python benchmarks/studies/speed/network_forward.py --device cuda --compile --batch 64 256 --published CHECKOUT

The variants run in turn, so that a busy machine slows all alike. The table has the fastest pass and the median, on CUDA
the memory of a pass besides the weights, and the share of the matrix-product peak: operations per second, counted in
convolutions, products and attention, over those of one large product in the same precision. ``published code``
(published.py) has the same weights; every output is compared with eager float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import attrs
import torch
from published import Checkout
from side_by_side import in_turn, options_of, prepare, randomised, show
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from scoresde_core import default_registry
from scoresde_run import plan_model
from scoresde_run.commands.presets import find_preset
from scoresde_run.machine.device import use_tf32
from scoresde_run.machine.environment import describe_device


@attrs.frozen
class Variant:
    """A way to run the network, and the precision of its products."""

    network: Callable[[Tensor, Tensor], Tensor]
    products: str = "float32"
    last: bool = False

    def __call__(self, x: Tensor, label: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if self.last else x
        lowered = torch.autocast(x.device.type, torch.bfloat16, enabled=self.products == "bfloat16")
        use_tf32(self.products == "tf32")
        with lowered:
            return self.network(x, label)


def main() -> None:
    parser = options_of(__doc__ or "", published=True)
    parser.add_argument("--preset", default="ve_cifar10_ncsnpp_continuous")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--compile", action="store_true", help="also time torch.compile, without compiling")
    parser.add_argument("--mode", default="default", help="mode of torch.compile on a GPU, such as max-autotune")
    options, registry = parser.parse_args(), default_registry()
    device, plan = prepare(options), plan_model(find_preset(registry, options.preset), registry)
    network = randomised(plan.build().network).to(device)
    ways = variants(network, device, compiled=options.compile, mode=options.mode)
    if options.published:
        published = Checkout(options.published, device)
        theirs = published.network(published.config(options.preset, {}), network).requires_grad_(False)
        ways = {"published code": Variant(theirs), **ways}

    peaks = {name: matmul_peak(name, device) for name in dict.fromkeys(way.products for way in ways.values())}
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{options.preset}: {parameters:.2f} M parameters, {describe_device(device)}, torch {torch.__version__}")
    print("matrix products:", ", ".join(f"{name} {peak / 1e12:.3g} TFLOP/s" for name, peak in peaks.items()))
    for batch in options.batch:
        x, label = torch.rand(batch, *plan.shape, device=device), torch.linspace(0.5, 20.0, batch, device=device)
        with torch.inference_mode():
            measured = in_turn({name: partial(way, x, label) for name, way in ways.items()}, device, options.repeat)
        work = operations(network, x[:1], label[:1]) * batch
        fastest = {name: min(found.seconds, default=torch.nan) for name, found in measured.items()}
        share = {name: f"{work / peaks[ways[name].products] / taken:.0%}" for name, taken in fastest.items()}
        answers = {name: found.result for name, found in measured.items() if not found.failure}
        truth = answers.get("eager" if device.type == "cpu" else "float32")
        off = {} if truth is None else {name: (each - truth).abs().max() for name, each in answers.items()}
        differences = {name: f"{float(largest / truth.abs().max()):.1e}" for name, largest in off.items()}
        show(f"images, batch {batch}", measured, batch, of_peak=share, difference=differences)


def variants(network: nn.Module, device: torch.device, *, compiled: bool, mode: str) -> dict[str, Variant]:
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        ways = {"eager": Variant(network), "channels last": Variant(last, last=True)}
        return {**ways, "compiled": Variant(torch.compile(last, dynamic=False), last=True)} if compiled else ways
    ways = {
        "float32": Variant(network),
        "tf32": Variant(network, "tf32"),
        "bf16": Variant(network, "bfloat16"),
        "bf16 ch. last": Variant(last, "bfloat16", last=True),
    }
    if compiled:
        ways["bf16 compiled"] = Variant(torch.compile(last, dynamic=False, mode=mode), "bfloat16", last=True)
    return ways


def matmul_peak(products: str, device: torch.device) -> float:
    """Operations per second of a large product, the upper bound for a network of products of this precision."""
    size, dtype = 8192 if device.type == "cuda" else 1024, torch.bfloat16 if products == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    use_tf32(products == "tf32")
    product = in_turn({"product": lambda: a @ b}, device, 10, warm_up=3)["product"]
    return 2 * size**3 / min(product.seconds)


def operations(network: nn.Module, x: Tensor, label: Tensor) -> int:
    """Multiplications and additions of one pass, in convolutions, matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        network(x, label)
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
