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

import copy
from functools import partial

import torch
from published import Checkout
from side_by_side import in_turn, options_of, prepare, randomised, show
from torch.utils.flop_counter import FlopCounterMode
from scoresde_core import default_registry
from scoresde_run import plan_model
from scoresde_run.commands.presets import find_preset
from scoresde_run.machine.device import use_tf32


def forward(network, products, last, x, label):
    """A pass with products of this precision, of images whose channels come last if wanted."""
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    use_tf32(products == "tf32")
    with torch.autocast(x.device.type, torch.bfloat16, enabled=products == "bfloat16"):
        return network(x, label)


def ways_of(network, options, device):
    """Ways to run the network by name: the network, the precision of its products, whether channels come last."""
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    cpu, low = device.type == "cpu", "float32" if device.type == "cpu" else "bfloat16"
    if cpu:
        ways = {"eager": (network, low, False), "channels last": (last, low, True)}
    else:
        ways = {"float32": (network, "float32", False), "tf32": (network, "tf32", False)}
        ways |= {"bf16": (network, low, False), "bf16 ch. last": (last, low, True)}
    if options.compile:
        name, mode = ("compiled", "default") if cpu else ("bf16 compiled", options.mode)
        ways[name] = (torch.compile(last, dynamic=False, mode=mode), low, True)
    if options.published:
        published = Checkout(options.published, device)
        theirs = published.network(published.config(options.preset, {}), network).requires_grad_(False)
        ways = {"published code": (theirs, "float32", False), **ways}
    return ways


def matmul_peak(products, device):
    """Operations per second of a large product, the upper bound for a network of products of this precision."""
    size, dtype = 8192 if device.type == "cuda" else 1024, torch.bfloat16 if products == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    use_tf32(products == "tf32")
    return 2 * size**3 / min(in_turn({"": lambda: a @ b}, device, 10, warm_up=3)[""].seconds)


parser = options_of(__doc__)
parser.add_argument("--preset", default="ve_cifar10_ncsnpp_continuous")
parser.add_argument("--batch", type=int, nargs="+", default=[8])
parser.add_argument("--compile", action="store_true", help="also time torch.compile, without compiling")
parser.add_argument("--mode", default="default", help="mode of torch.compile on a GPU, such as max-autotune")
options, registry = parser.parse_args(), default_registry()
(device, where), plan = prepare(options), plan_model(find_preset(registry, options.preset), registry)
network = randomised(plan.build().network).to(device)
ways = ways_of(network, options, device)
peaks = {products: matmul_peak(products, device) for products in dict.fromkeys(way[1] for way in ways.values())}
print(f"{options.preset}: {sum(weight.numel() for weight in network.parameters()) / 1e6:.2f} M parameters, {where}")
print("matrix products:", ", ".join(f"{name} {peak / 1e12:.3g} TFLOP/s" for name, peak in peaks.items()))
for batch in options.batch:
    x, label = torch.rand(batch, *plan.shape, device=device), torch.linspace(0.5, 20.0, batch, device=device)
    with torch.inference_mode():
        runs = {name: partial(forward, *way, x, label) for name, way in ways.items()}
        measured = in_turn(runs, device, options.repeat)
    with FlopCounterMode(display=False) as counter:
        network(x[:1], label[:1])
    done = {name: found for name, found in measured.items() if not found.failure}
    rates = {name: counter.get_total_flops() * batch / min(found.seconds) for name, found in done.items()}
    share = {name: f"{rate / peaks[ways[name][1]]:.0%}" for name, rate in rates.items()}
    truth = done.get("eager" if device.type == "cpu" else "float32")
    off = {name: (found.result - truth.result).abs().max() for name, found in done.items() if truth}
    differences = {name: f"{float(most / truth.result.abs().max()):.1e}" for name, most in off.items()}
    show(f"images, batch {batch}", measured, batch, of_peak=share, difference=differences)
