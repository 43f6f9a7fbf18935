"""Samples a second of every predictor behind a network, and the share of the time that the network does not take.

    python benchmarks/predictor_speed.py [--network vp_cifar10_ddpmpp_continuous] [--device cuda] [--compile]
                                         [--batch-size 16 64 256] [--steps 10] [--autocast bfloat16]

A line of JSON for every predictor and batch size, then a table. Weights are random: the speed is that of trained ones.
The network's own time is that of as many evaluations in a row of the same batch, with nothing between them. On a GPU a
loop may prepare a step while the network still computes the last one; a share of 0 then means that it always does.
"""

import argparse
import json
import time

import torch

from scoresde_core import Noise, default_registry
from scoresde_core.cli.environment import describe_device
from scoresde_core.cli.presets import find_preset
from scoresde_core.device import find_device, keep_freed_memory
from scoresde_core.models.model import plan_model

REPEATS = 3


@torch.no_grad()
def measure(model, names, size, steps, device, autocast, registry):
    """A line for every predictor at one batch size."""
    score, sde = model.score(autocast=autocast), model.sde
    noise = Noise(0, model.shape, size, device=device)
    latent, level = noise.draw("prior", "prior"), sde.level(torch.ones(()))
    first = seconds(lambda: score.score(latent, level), device, repeats=0)  # compiles, where it was asked for
    alone = {}
    for name in names:
        sampler = registry.create("samplers", f"pc[predictor={name},steps={steps}]")
        if reason := sampler.skip(sde):
            yield {"predictor": name, "batch_size": size, "skip": reason}
            continue
        before = score.calls
        sampler.run(latent.clone(), score, sde, noise)
        calls = score.calls - before
        total = seconds(lambda sampler=sampler: sampler.run(latent.clone(), score, sde, noise), device)
        if calls not in alone:
            alone[calls] = seconds(lambda calls=calls: [score.score(latent, level) for _ in range(calls)], device)
        line = {"predictor": name, "batch_size": size, "nfe": calls, "samples_per_second": size / total}
        yield {**line, "share_outside_network": max(0.0, 1 - alone[calls] / total), "first_call_seconds": first}


def seconds(run, device, repeats=REPEATS):
    """The best of a few, after a warm-up; without repeats that of the first."""
    times = []
    for _ in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:] or times)


def table(lines, names, sizes):
    """Markdown: a row a predictor, a column a batch size."""
    yield f"| predictor | NFE | {' | '.join(f'batch {size}' for size in sizes)} |"
    yield f"|---|---:|{'---:|' * len(sizes)}"
    for name in names:
        found = {line["batch_size"]: line for line in lines if line["predictor"] == name and "nfe" in line}
        cells = [
            f"{found[size]['samples_per_second']:.3g}/s, {found[size]['share_outside_network']:.0%} outside"
            for size in sizes
            if size in found
        ]
        if cells:
            yield f"| `{name}` | {next(iter(found.values()))['nfe']} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vp_cifar10_ddpmpp_continuous", help="preset")
    parser.add_argument("--predictor", nargs="+", help="default: every one that is registered")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    arguments = parser.parse_args()
    keep_freed_memory()
    device, registry = find_device(arguments.device), default_registry()
    model = plan_model(find_preset(registry, arguments.network), registry).build(0).to(device)
    if arguments.compile:
        model.network.compile()
    names = arguments.predictor or [e.row.name for e in registry.entries("predictors") if e.row.name != "none"]
    asked = {name: getattr(arguments, name) for name in ("network", "compile", "autocast", "steps")}
    about = {"device": describe_device(device), "torch": torch.__version__, **asked}
    autocast = getattr(torch, arguments.autocast) if arguments.autocast else None
    lines = []
    for size in arguments.batch_size:
        for line in measure(model, names, size, arguments.steps, device, autocast, registry):
            lines.append(line)
            print(json.dumps({**line, **about}), flush=True)
    print("", *table(lines, names, arguments.batch_size), sep="\n")


if __name__ == "__main__":
    main()
