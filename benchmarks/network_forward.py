"""Times one forward pass of a network: eager, channels-last and compiled, and optionally the published code beside it.

    python benchmarks/network_forward.py
    python benchmarks/network_forward.py --preset ddpm --batch 32 --threads 2 --compile
    python benchmarks/network_forward.py --published ~/score_sde_pytorch

The variants take turns, so that a busy machine slows all of them alike; the table gives the fastest pass and the
median. ``--published`` takes a checkout of score_sde_pytorch whose ``models`` package can be imported here (it compiles
CUDA code on import: replace that in your copy on a machine without a compiler). Both networks then hold the same
weights, and their outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from scoresde_core.network import Network
from scoresde_plugins.networks.ddpm import DDPM
from scoresde_plugins.networks.ncsnpp import NCSNpp

Forward = Callable[[], Tensor]


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


def main() -> None:
    options = _options()
    preset, device = PRESETS[options.preset], torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = _randomised(preset.spec.build((3, preset.size, preset.size))).to(device).eval()
    x = torch.rand(options.batch, 3, preset.size, preset.size, device=device)
    label = torch.linspace(0.5, 20.0, options.batch, device=device)

    forwards = variants(network, x, label, compiled=options.compile)
    if options.published:
        theirs = published_network(options.published, preset.published, network)
        forwards = {"published code": lambda: theirs(x, label), **forwards}
    with torch.inference_mode():
        truth = network(x, label)
        errors = {
            name: float((forward() - truth).abs().max() / truth.abs().max()) for name, forward in forwards.items()
        }
        seconds = interleaved(forwards, device, options.repeat)

    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    images = f"batch {options.batch} of {preset.size}x{preset.size}"
    print(f"{options.preset}: {parameters:.2f} M parameters, {images}, float32")
    print(f"torch {torch.__version__}, {device.type}, {where}, {options.repeat} passes each\n")
    print(f"{'variant':<16} {'fastest s':>10} {'median s':>10} {'images/s':>10} {'speed':>7} {'difference':>11}")
    slowest = min(next(iter(seconds.values())))
    for name, times in seconds.items():
        best, median = min(times), statistics.median(times)
        speed = f"{slowest / best:.2f}x"
        print(
            f"{name:<16} {best:>10.4f} {median:>10.4f} {options.batch / best:>10.1f} {speed:>7} {errors[name]:>11.1e}"
        )


def variants(network: nn.Module, x: Tensor, label: Tensor, *, compiled: bool) -> dict[str, Forward]:
    """The same weights in each layout, and compiled."""
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    forwards: dict[str, Forward] = {"eager": lambda: network(x, label), "channels last": lambda: last(x_last, label)}
    if compiled:
        fast = torch.compile(last)
        forwards["compiled"] = lambda: fast(x_last, label)
    return forwards


def published_network(checkout: Path, config_module: str, ours: nn.Module) -> nn.Module:
    """The published network with the weights of ``ours``, from a checkout on this machine."""
    sys.path.insert(0, str(checkout.expanduser()))
    try:
        for name in ("ncsnpp", "ddpm"):
            import_module(f"models.{name}")
        config = import_module(config_module).get_config()
        build = import_module("models.utils").get_model(config.model.name)
    except Exception as error:
        raise SystemExit(f"cannot import the published code in {checkout}: {type(error).__name__}: {error}") from error
    theirs: nn.Module = build(config)
    theirs.load_state_dict(ours.state_dict())
    return theirs.to(next(ours.parameters()).device).eval()


def interleaved(forwards: Mapping[str, Forward], device: torch.device, repeat: int) -> dict[str, list[float]]:
    """Seconds of ``repeat`` passes of each, one of each in turn, synchronised with the device."""
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(repeat):
        for name, forward in forwards.items():
            _wait(device)
            start = time.perf_counter()
            forward()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _randomised(network: nn.Module) -> nn.Module:
    """With noise on every trained weight, so that the layers that start at zero count in the comparison."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    return network


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="ncsnpp")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0, help="threads on the CPU; 0 leaves the default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="time torch.compile too (its compilation is not counted)"
    )
    parser.add_argument("--published", type=Path, metavar="CHECKOUT", help="a checkout of score_sde_pytorch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
