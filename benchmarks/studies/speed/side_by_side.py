"""Shared by the speed studies: options, contestants timed in turn, and their table."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn
from scoresde_core.sampler import now
from scoresde_run.machine.device import find_device, keep_freed_memory
from scoresde_run.machine.environment import describe_device, peak_memory, reset_peak_memory

Run = Callable[[], object]
MIB = 2**20
_CLOCK = [now]


def options_of(doc: str, *, published: bool = True) -> argparse.ArgumentParser:
    """A parser with the options of every speed study; ``published`` adds a checkout of the published code."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="threads on the CPU; 0: the default")
    parser.add_argument("--processor", action="store_true", help="processor time, of one thread of a busy CPU")
    parser.add_argument("--repeat", type=int, default=10, help="passes of every alternative (default: 10)")
    if published:
        parser.add_argument("--published", type=Path, metavar="CHECKOUT", help="checkout of score_sde_pytorch")
    return parser


def prepare(options: argparse.Namespace, *, keep_memory: bool = True) -> tuple[torch.device, str]:
    """Set up threads and, as the command line does, keep freed memory; returns the device, and where this runs."""
    if keep_memory:
        keep_freed_memory()
    if options.processor:
        _CLOCK.append(lambda device: time.process_time())
    if options.threads:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    return device, f"{describe_device(device)}, torch {torch.__version__}"


def seconds(run: Run, device: torch.device) -> float:
    """Seconds of a call, synchronised with the device."""
    start = _CLOCK[-1](device)
    run()
    return _CLOCK[-1](device) - start


@attrs.define
class Measured:
    """Seconds of every pass, the peak of bytes that a pass allocates (CUDA only), and what the last one returned."""

    seconds: list[float] = attrs.Factory(list)
    memory: int = 0
    result: Any = None
    failure: str | None = None

    def measure(self, run: Run, device: torch.device, counts: bool) -> None:
        """Time a pass; one that is out of memory is the ``failure``."""
        cuda = device.type == "cuda"
        before = torch.cuda.memory_allocated(device) if cuda else 0
        reset_peak_memory(device)
        try:
            taken = seconds(lambda: setattr(self, "result", run()), device)
        except torch.OutOfMemoryError:
            self.failure = "out of memory"
            torch.cuda.empty_cache()
            return
        if counts:
            self.seconds.append(taken)
            self.memory = max(self.memory, peak_memory(device) - before) if cuda else 0


def in_turn(runs: Mapping[str, Run], device: torch.device, repeat: int, warm_up: int = 1) -> dict[str, Measured]:
    """Run ``repeat`` passes of each in turn, after ``warm_up`` uncounted ones, so that a busy machine slows all alike.

    A run that fails is left out from then on; the others continue.
    """
    measured = {name: Measured() for name in runs}
    for turn in range(-warm_up, repeat):
        for name, found in measured.items():
            if found.failure is None:
                found.measure(runs[name], device, counts=turn >= 0)
    return measured


def randomised(network: nn.Module) -> nn.Module:
    """The network with noise on every trained weight, so that layers initialised with zeros count."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    return network.requires_grad_(False)


def show(title: str, measured: Mapping[str, Measured], units: int = 1, **more: Mapping[str, object]) -> None:
    """Print the milliseconds per unit, and the speed against the first; ``more`` are columns by title, then name."""
    heads = ("fastest ms", "median ms", "units/s", "speed", "memory MiB", *(title.replace("_", " ") for title in more))
    print(f"\n{title:<42} " + " ".join(f"{head:>11}" for head in heads))
    first = next((min(found.seconds) for found in measured.values() if found.seconds), 0.0)
    for name, found in measured.items():
        if found.failure:
            print(f"{name:<42} {found.failure}")
            continue
        fastest, median = min(found.seconds) / units, statistics.median(found.seconds) / units
        memory = f"{found.memory / MIB:.0f}" if found.memory else "-"
        cells = [f"{fastest * 1e3:.3f}", f"{median * 1e3:.3f}", f"{1 / fastest:.1f}", f"{first / units / fastest:.2f}x"]
        cells += [memory, *(str(column.get(name, "-")) for column in more.values())]
        print(f"{name:<42} " + " ".join(f"{cell:>11}" for cell in cells))
