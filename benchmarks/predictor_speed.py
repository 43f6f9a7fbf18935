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

from scoresde_bench.environment import describe_device
from scoresde_core import Noise, default_registry
from scoresde_core.cli.presets import find_preset
from scoresde_core.device import find_device, keep_freed_memory
from scoresde_core.model import plan_model

REPEATS = 3


def seconds(run, device):
    """The best of a few, after a warm-up."""
    times = []
    for _ in range(1 + REPEATS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


@torch.no_grad()
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
    plan = plan_model(find_preset(registry, arguments.network), registry)
    model = plan.build(0).to(device)
    if arguments.compile:
        model.network.compile()
    autocast = getattr(torch, arguments.autocast) if arguments.autocast else None
    names = arguments.predictor or [e.row.name for e in registry.entries("predictors") if e.row.name != "none"]
    about = {"device": describe_device(device), "network": arguments.network, "compile": arguments.compile}
    about |= {"autocast": arguments.autocast, "steps": arguments.steps, "torch": torch.__version__}
    lines = []
    for size in arguments.batch_size:
        score = model.score(autocast=autocast)
        noise = Noise(0, plan.shape, size, device=device)
        latent = noise.draw("prior", "prior")
        begun = time.perf_counter()
        score.score(latent, plan.sde.level(torch.ones(())))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        first = time.perf_counter() - begun

        def network(calls, score=score, latent=latent):
            for _ in range(calls):
                score.score(latent, plan.sde.level(torch.ones(())))

        alone = {}
        for name in names:
            sampler = registry.create("samplers", f"pc[predictor={name},steps={arguments.steps}]")
            reason = sampler.skip(plan.sde)
            if reason:
                lines.append({"predictor": name, "batch_size": size, "skip": reason, **about})
                continue
            before = score.calls
            sampler.run(latent.clone(), score, plan.sde, noise)
            calls = score.calls - before

            def whole(sampler=sampler, latent=latent, score=score, noise=noise):
                sampler.run(latent.clone(), score, plan.sde, noise)

            total = seconds(whole, device)
            if calls not in alone:
                alone[calls] = seconds(lambda calls=calls, network=network: network(calls), device)
            line = {"predictor": name, "batch_size": size, "nfe": calls, "samples_per_second": size / total}
            line |= {"share_outside_network": max(0.0, 1 - alone[calls] / total), "first_call_seconds": first, **about}
            lines.append(line)
            print(json.dumps(line), flush=True)
    print(f"\n| predictor | NFE | {' | '.join(f'batch {size}' for size in arguments.batch_size)} |")
    print(f"|---|---:|{'---:|' * len(arguments.batch_size)}")
    for name in names:
        found = {line["batch_size"]: line for line in lines if line["predictor"] == name and "nfe" in line}
        if found:
            cells = [
                f"{line['samples_per_second']:.3g}/s, {line['share_outside_network']:.0%} outside" if line else "–"
                for line in map(found.get, arguments.batch_size)
            ]
            print(f"| `{name}` | {next(iter(found.values()))['nfe']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
