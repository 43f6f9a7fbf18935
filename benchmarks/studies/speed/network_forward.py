"""Measures a forward pass of a network in each precision and layout, and optionally that of the published code.

    python benchmarks/studies/speed/network_forward.py
    python benchmarks/studies/speed/network_forward.py --preset ddpm --batch 32 --threads 2 --compile
    python benchmarks/studies/speed/network_forward.py --published ~/score_sde_pytorch
    python benchmarks/studies/speed/network_forward.py --device cuda --compile --batch 64 256 --published CHECKOUT

The variants run in turn, so that a busy machine slows all alike. The table has the fastest pass and the median, on CUDA
the memory of a pass besides the weights, and the share of the matrix-product peak: operations per second, counted in
convolutions, products and attention, over those of one large product in the same precision. ``published code``
(published.py) has the same weights; every output is compared with eager float32.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import torch
from published import Checkout
from side_by_side import Measured, in_turn, matmul_peak, options_of, prepare, tf32
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scoresde_plugins.networks.ddpm import DDPM
from scoresde_plugins.networks.ncsnpp import NCSNpp
from scoresde_run.machine.environment import describe_device
from scoresde_run.models.network import Network


@attrs.frozen
class Preset:
    """A network, the side of its images, and the module of its published configuration."""

    spec: Network
    size: int
    published: str


_SCORE: dict[str, Any] = {"parameterisation": "score", "label": "sigma", "centered": False}
PRESETS: Mapping[str, Preset] = {
    "ncsnpp": Preset(NCSNpp(**_SCORE), 32, "configs.ve.cifar10_ncsnpp_continuous"),
    "ddpmpp": Preset(NCSNpp(fir=False, progressive_input="none"), 32, "configs.vp.cifar10_ddpmpp_continuous"),
    "ddpm": Preset(DDPM(), 32, "configs.vp.ddpm.cifar10_continuous"),
    "ncsnpp256": Preset(
        NCSNpp(
            **_SCORE,
            sigma_max=348.0,
            scales=2000,
            num_res_blocks=2,
            ch_mult=(1, 1, 2, 2, 2, 2, 2),
            progressive="output_skip",
            progressive_input="input_skip",
            dropout=0.0,
        ),
        256,
        "configs.ve.celebahq_256_ncsnpp_continuous",
    ),
}


@attrs.frozen
class Variant:
    """A way to run the network, and the precision of its products."""

    network: Callable[[Tensor, Tensor], Tensor]
    products: str = "float32"
    last: bool = False

    def __call__(self, x: Tensor, label: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if self.last else x
        with (
            tf32(self.products == "tf32"),
            torch.autocast(x.device.type, torch.bfloat16, enabled=self.products == "bfloat16"),
        ):
            return self.network(x, label)


def main() -> None:
    options = _options()
    preset, device = PRESETS[options.preset], prepare(options)
    torch.manual_seed(0)
    network = _randomised(preset.spec.build((3, preset.size, preset.size))).to(device).eval().requires_grad_(False)
    ways = variants(network, device, compiled=options.compile, mode=options.mode)
    if options.published:
        published = Checkout(options.published, device)
        theirs = published.network(published.config(preset.published, {}), network).requires_grad_(False)
        ways = {"published code": Variant(theirs), **ways}

    peaks = {name: matmul_peak_of(name, device) for name in dict.fromkeys(way.products for way in ways.values())}
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{options.preset}: {parameters:.2f} M parameters, images of {preset.size}x{preset.size}")
    print(f"torch {torch.__version__}, {describe_device(device)}, {options.repeat} passes each")
    print("matrix products:", ", ".join(f"{name} {peak / 1e12:.3g} TFLOP/s" for name, peak in peaks.items()))
    for batch in options.batch:
        x = torch.rand(batch, 3, preset.size, preset.size, device=device)
        label = torch.linspace(0.5, 20.0, batch, device=device)
        with torch.inference_mode():
            truth = _answer(Variant(network), x, label)
            errors = {name: _difference(way, x, label, truth) for name, way in ways.items()}
            runs = {name: partial(way, x, label) for name, way in ways.items()}
            measured = in_turn(runs, device, options.repeat)
        work = operations(network, x[:1], label[:1]) * batch
        _print_table(batch, ways, measured, errors, {name: work / peak for name, peak in peaks.items()})


def variants(network: nn.Module, device: torch.device, *, compiled: bool, mode: str) -> dict[str, Variant]:
    """The same weights in each precision and layout, and compiled."""
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


def matmul_peak_of(products: str, device: torch.device) -> float:
    """Operations per second of a large product in a precision of :class:`Variant`."""
    with tf32(products == "tf32"):
        return matmul_peak(device, torch.bfloat16 if products == "bfloat16" else torch.float32)


def operations(network: nn.Module, x: Tensor, label: Tensor) -> int:
    """Multiplications and additions of one pass, in convolutions, matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        network(x, label)
    return counter.get_total_flops()


def _answer(way: Variant, x: Tensor, label: Tensor) -> Tensor | None:
    """The output for a batch; None if out of memory."""
    try:
        return way(x, label)
    except torch.OutOfMemoryError:
        return None


def _difference(way: Variant, x: Tensor, label: Tensor, truth: Tensor | None) -> float:
    answer = _answer(way, x, label)
    if answer is None or truth is None:
        return float("nan")
    return float((answer - truth).abs().max() / truth.abs().max())


def _print_table(
    batch: int,
    ways: Mapping[str, Variant],
    measured: Mapping[str, Measured],
    errors: Mapping[str, float],
    ideal: Mapping[str, float],
) -> None:
    columns = ("fastest s", "median s", "images/s", "speed", "of peak", "memory MiB", "difference")
    print(f"\n{f'batch {batch}':<16} " + " ".join(f"{column:>10}" for column in columns))
    slowest = next((found.fastest for found in measured.values() if found.seconds), None)
    for name, found in measured.items():
        if found.failure or slowest is None:
            print(f"{name:<16} {found.failure}")
            continue
        memory = f"{found.memory / 2**20:.0f}" if found.memory else "-"
        print(
            f"{name:<16} {found.fastest:>10.4f} {found.median:>10.4f} {batch / found.fastest:>10.1f} "
            f"{slowest / found.fastest:>9.2f}x {ideal[ways[name].products] / found.fastest:>10.0%} {memory:>10} "
            f"{errors[name]:>10.1e}"
        )


def _randomised(network: nn.Module) -> nn.Module:
    """Add noise to every trained weight, so that layers initialised with zeros count in the comparison."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    return network


def _options() -> argparse.Namespace:
    parser = options_of(__doc__ or "", published=True)
    parser.add_argument("--preset", choices=PRESETS, default="ncsnpp")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile, without compiling")
    parser.add_argument("--mode", default="default", help="mode of torch.compile on a GPU, such as max-autotune")
    return parser.parse_args()


if __name__ == "__main__":
    main()
