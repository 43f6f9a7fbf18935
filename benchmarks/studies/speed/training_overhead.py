"""Measures a training step without the network's forward and backward pass, on random images of a preset's shape.

    python benchmarks/studies/speed/training_overhead.py
    python benchmarks/studies/speed/training_overhead.py --preset mnist_vp --set training.batch_size=32 --steps 10
    python benchmarks/studies/speed/training_overhead.py --device cuda --preset vp_cifar10_ddpmpp_continuous \\
        --set training.precision=bfloat16 training.compile=true

Whole steps and the network alone run in turn, so that a busy machine slows both alike; times are the fastest of all
turns. The parts are timed one by one afterwards, each synchronised with the device, so they are upper bounds: in a step
on a GPU they overlap.
"""

from functools import partial

import attrs
import torch
from side_by_side import options_of, prepare, seconds

from scoresde import Dataset, load_registry
from scoresde_core.loss import Draws
from scoresde_run.commands.presets import find_preset
from scoresde_run.data.batches import Batch
from scoresde_run.machine.environment import describe_device
from scoresde_run.machine.processes import Processes
from scoresde_run.training.trainer import Trainer, plan_training


@attrs.frozen
class RandomEvents(Dataset):
    """Random images or points with arbitrary labels."""

    shape: tuple = ()
    count: int = 2048

    def load(self, split="train"):
        generator = torch.Generator().manual_seed(0)
        size = (self.count, *self.shape)
        if len(self.shape) == 3:
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return torch.randn(size, generator=generator)

    def known(self, split="train"):
        return {"labels": torch.arange(self.count) % 10}


def network_alone(trainer, x):
    """Forward and backward pass of the network of a step, in its precision, with a trivial loss."""
    label = torch.full((len(x),), 0.5, device=x.device)
    dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[trainer.config.precision]

    def passes():
        for part in x.chunk(trainer.config.accumulate):
            with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
                out = trainer._wrapped(part, label[: len(part)])
            out.float().square().mean().backward()
        for parameter in trainer.state.network.parameters():
            parameter.grad = None

    return passes


def parts(trainer, batch):
    """The other parts of a step, by name."""
    state, plan, batches = trainer.state, trainer.plan, trainer.batches
    count = len(batch.x)
    draws = Draws(0, 1, count, device=trainer.device)
    parameters = [p for p in state.network.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) for p in parameters]

    def with_gradients(call):
        def run():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            call()

        return run

    class Echo:
        sde = plan.model.sde

        def noise(self, x, level):
            return x

        def log_probabilities(self, x, level):
            return x.flatten(1)[:, :10]

    step = iter(range(10**9))

    def loss():
        plan.loss.per_sample(Echo(), batch.x, draws, **batch.known).mean()

    found = {
        "batch: indices, copy, scaling, flips": lambda: next(batches.stream(next(step))),
        "loss: times, noise, perturbation": loss,
        "clipping": with_gradients(lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)),
        "optimiser": with_gradients(state.optimizer.step),
    }
    if state.average is not None:
        found["average"] = lambda: state.average.update(1)
    return found


def main():
    options = _options()
    device = prepare(options)
    registry = load_registry()
    changes = ["training.evaluate_every=null", *options.set]
    plan = plan_training(find_preset(registry, options.preset).override(changes), registry)
    plan = attrs.evolve(plan, dataset=RandomEvents(plan.model.shape))
    trainer, clock = Trainer(plan, Processes(device)), partial(seconds, device=device)
    trainer.state.network.train()
    steps = trainer.steps()
    batch: Batch = next(trainer.batches.stream(0))
    alone = network_alone(trainer, batch.x)
    for _ in range(options.warmup):
        next(steps)
        alone()
    whole, network = [], []
    for _ in range(options.steps):
        whole.append(clock(lambda: next(steps)))
        network.append(clock(alone))
    step, inner = min(whole), min(network)
    size = sum(p.numel() for p in trainer.state.network.parameters()) / 1e6
    print(f"{options.preset}: {size:.2f} M parameters, batch {trainer.config.batch_size}, {trainer.config.precision}")
    print(f"{describe_device(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"{'a step':<42} {step * 1e3:9.2f} ms  {trainer.config.batch_size / step:.0f} events/s")
    print(f"{'the network, forward and backward':<42} {inner * 1e3:9.2f} ms")
    print(f"{'the rest':<42} {(step - inner) * 1e3:9.2f} ms  {1 - inner / step:.1%} of the step\n")
    for name, call in parts(trainer, batch).items():
        call()
        fastest = min(clock(call) for _ in range(options.steps))
        print(f"  {name:<40} {fastest * 1e3:9.2f} ms  {fastest / step:.1%}")


def _options():
    parser = options_of(__doc__)
    parser.add_argument("--preset", default="mnist_vp")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
