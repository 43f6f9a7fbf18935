"""Measures samples per second of every predictor with a network, and the share of time outside the network.

    python benchmarks/studies/speed/predictor_speed.py [--network vp_cifar10_ddpmpp_continuous] [--device cuda]
        [--compile] [--batch-size 16 64 256] [--steps 10] [--autocast bfloat16] [--tf32]

Prints a line of JSON for every predictor and batch size. Weights are random, as fast as trained ones.
Times are those of the fastest of three runs. The network's time is that of as many evaluations in a row of the same
batch, because a GPU works while the loop continues: a share of 0 means that the loop always prepares a step while the
network computes the previous one. ``--compile`` compiles the network for each batch size before timing
(``first_call_seconds``).
"""

import json

import torch
from side_by_side import in_turn, options_of, prepare, seconds
from scoresde_bench.run.cell import no_compiler
from scoresde_core import Noise, default_registry
from scoresde_run import plan_model
from scoresde_run.commands.presets import find_preset
from scoresde_run.machine.device import use_tf32
from scoresde_run.machine.environment import describe_device


@torch.no_grad()
def measure(model, samplers, size, device, autocast):
    """Yield a line for every sampler, by the name of its predictor, at one batch size."""
    score, noise = model.score(autocast=autocast), Noise(0, model.shape, size, device=device)
    latent, level = noise.draw("prior", "prior"), model.sde.level(torch.ones(()))
    first = seconds(lambda: score.score(latent, level), device)  # compiles, if requested
    for name, sampler in samplers.items():
        line = {"predictor": name, "batch_size": size}
        if reason := sampler.skip(model.sde):
            yield {**line, "skip": reason}
            continue
        before = score.calls
        sampler.run(latent.clone(), score, noise)  # warms up
        calls = score.calls - before
        runs = {
            "whole": lambda sampler=sampler: sampler.run(latent.clone(), score, noise),
            "network": lambda calls=calls: [score.score(latent, level) for _ in range(calls)],
        }
        total, inside = (min(found.seconds) for found in in_turn(runs, device, 3, warm_up=0).values())
        line |= {"nfe": calls, "samples_per_second": size / total}
        yield {**line, "share_outside_network": max(0.0, 1 - inside / total), "first_call_seconds": first}


parser = options_of(__doc__, published=False)
parser.set_defaults(device="auto")
parser.add_argument("--network", default="vp_cifar10_ddpmpp_continuous", help="preset")
parser.add_argument("--predictor", nargs="+", help="default: all registered ones")
parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 64, 256])
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--compile", action="store_true", help="torch.compile the network")
parser.add_argument("--tf32", action="store_true", help="allow TF32 matrix products on a GPU")
parser.add_argument("--autocast", choices=["bfloat16", "float16"])
options, registry = parser.parse_args(), default_registry()
device, _ = prepare(options)
use_tf32(options.tf32)
model = plan_model(find_preset(registry, options.network), registry).build(0).to(device)
if options.compile:
    if reason := no_compiler(device):
        parser.error(reason)
    model.network.compile(dynamic=False)
names = options.predictor or [e.row.name for e in registry.entries("predictors") if e.row.name != "none"]
samplers = {name: registry.create("samplers", f"pc[predictor={name},steps={options.steps}]") for name in names}
asked = {name: getattr(options, name) for name in ("network", "compile", "autocast", "tf32", "steps")}
about = {"device": describe_device(device), "torch": torch.__version__, **asked}
autocast = getattr(torch, options.autocast) if options.autocast else None
for size in options.batch_size:
    try:
        for line in measure(model, samplers, size, device, autocast):
            print(json.dumps({**line, **about}), flush=True)
    except torch.OutOfMemoryError:
        print(json.dumps({"batch_size": size, "skip": "out of memory", **about}), flush=True)
