"""Measures time and memory of a whole training step: forward, loss, backward, clipping, optimiser, averaging.

    python benchmarks/studies/speed/training_step.py --threads 2 --published ~/score_sde_pytorch
    python benchmarks/studies/speed/training_step.py --memory recompute --set training.batch_size=128
    python benchmarks/studies/speed/training_step.py --device cuda --set model.network.nf=128 training.batch_size=128

Random images of the preset's shape; by default the published NCSN++ of 32 channels, in batches of 16. The published
step is that of a checkout (published.py), with the same weights. Averaging the weights is also timed by itself.
``--memory`` prints the peak of one of the steps, allocated by CUDA or, on a CPU, held by the process.
"""

from itertools import count

import attrs
import torch
from published import Checkout
from side_by_side import MIB, in_turn, options_of, prepare, show
from scoresde import Dataset, default_registry
from scoresde_run.commands.presets import find_preset
from scoresde_run.machine.environment import peak_memory
from scoresde_run.machine.processes import Processes
from scoresde_run.training.trainer import Average, Trainer, plan_training

PRESET, PUBLISHED, RATE = "ve_cifar10_ncsnpp_continuous", "published code", 0.999
SMALL = ("model.network.nf=32", "training.batch_size=16")
FAST = ("training.precision=bfloat16", "training.channels_last=true")
RECOMPUTE = "model.network.recompute=true"
WAYS = {"float32": (), "recompute": (RECOMPUTE,), "bf16 compiled": (*FAST, "training.compile=true")}
WAYS["bf16, recompute"] = (*FAST, RECOMPUTE)


@attrs.frozen
class RandomEvents(Dataset):
    """Random images or points with arbitrary labels."""

    shape: tuple = ()
    count: int = 2048

    def load(self, split="train"):
        generator, size = torch.Generator().manual_seed(0), (self.count, *self.shape)
        if len(self.shape) == 3:
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return torch.randn(size, generator=generator)

    def known(self, split="train"):
        return {"labels": torch.arange(self.count) % 10}


def build(options, device, way="float32"):
    """The trainer of the preset on random events, with the changes of the options and of a way."""
    small = SMALL if options.preset == PRESET else ()
    changes = ["training.evaluate_every=null", *small, *options.set, *WAYS[way]]
    plan = plan_training(find_preset(default_registry(), options.preset).override(changes), default_registry())
    return Trainer(attrs.evolve(plan, dataset=RandomEvents(plan.model.shape)), Processes(device))


def step_of(way, options, device):
    """A function that makes a step; the published one starts with our weights."""
    if way != PUBLISHED:
        return build(options, device, way).steps().__next__
    ours, published = build(options, device), Checkout(options.published, device)
    nf, batch = ours.plan.config.model.network.params["nf"], ours.config.batch_size
    config = published.config(PRESET, {"model.nf": nf, "training.batch_size": batch})
    losses, network = published.module("losses"), published.network(config, ours.state.network)
    parameters = list(network.parameters())
    state = {"optimizer": losses.get_optimizer(config, parameters), "model": network, "step": 0}
    state["ema"] = published.module("models.ema").ExponentialMovingAverage(parameters, config.model.ema_rate)
    sde = published.module("sde_lib").VESDE(config.model.sigma_min, config.model.sigma_max, config.model.num_scales)
    step = losses.get_step_fn(
        sde, train=True, optimize_fn=losses.optimization_manager(config), continuous=True,
        reduce_mean=config.training.reduce_mean, likelihood_weighting=config.training.likelihood_weighting,
    )  # fmt: skip
    images = torch.rand(batch, *ours.plan.model.shape, device=device)
    return lambda: step(state, images)


def main():
    parser = options_of(__doc__)
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--compile", action="store_true", help="also time bf16 with torch.compile on a CPU")
    parser.add_argument("--memory", choices=(PUBLISHED, *WAYS), help="only the peak memory of one step")
    options = parser.parse_args()
    device, where = prepare(options, keep_memory=not options.memory)
    print(f"{options.preset} {' '.join(options.set)}, {where}")
    if options.memory:
        step, before = step_of(options.memory, options, device), peak_memory(device)
        for _ in range(2):  # the first creates the optimiser's state
            step()
        print(f"{options.memory}: {peak_memory(device) / MIB:.0f} MiB, before {before / MIB:.0f} MiB")
        return
    ways = [PUBLISHED] * bool(options.published) + ["float32", "recompute"]
    ways += ["bf16 compiled"] if device.type == "cuda" or options.compile else []
    trainer = build(options, device)
    size, network = trainer.config.batch_size, trainer.state.network
    steps = {way: step_of(way, options, device) for way in ways}
    show(f"images of a step, batch {size}", in_turn(steps, device, options.repeat, warm_up=2), size)
    number, average = count(1), Average(network, RATE)
    updates = {"ours": lambda: average.update(next(number))}
    if options.published:
        theirs = Checkout(options.published, device).module("models.ema")
        theirs = theirs.ExponentialMovingAverage(network.parameters(), RATE)
        updates = {PUBLISHED: lambda: theirs.update(network.parameters()), **updates}
    show("update of the averages", in_turn(updates, device, 10 * options.repeat, warm_up=2))


if __name__ == "__main__":
    main()
