"""Times training steps of two checkouts in turn, so that a busy machine slows both alike.

    python tests/long/training_of_two_checkouts.py BEFORE AFTER --steps 40

Each checkout trains in a process of its own, one step at a time, on the same random events. A step's time is that of
its process on a processor; the least of all steps counts, since all else is other work.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PRESETS = {
    "mnist_vp": ["training.batch_size=16"],
    "moons_vp": [],
    "ve_cifar10_ncsnpp_continuous": ["model.network.nf=32", "training.batch_size=8"],
}
STEPS = """
import sys, time
import attrs, torch
sys.path.insert(0, "benchmarks/studies/speed")
from training_step import RandomEvents
from scoresde import Processes, default_registry, plan_training
from scoresde_run.training.trainer import Trainer
torch.set_num_threads(1)
registry = default_registry()
config = registry.create("presets", sys.argv[1]).override(["training.evaluate_every=null", *sys.argv[2:]])
config = attrs.evolve(config, data=attrs.evolve(config.data, random_flip=False))
plan = plan_training(config, registry)
trainer = Trainer(attrs.evolve(plan, dataset=RandomEvents(plan.model.shape)), Processes(torch.device("cpu")))
steps = trainer.steps()
for _ in sys.stdin:
    start = time.process_time()
    next(steps)
    print(time.process_time() - start, flush=True)
"""


def started(checkout, preset):
    """A process that makes a step for every line that it reads, and answers with its seconds."""
    rooms = (checkout, checkout / "plugins", checkout / "benchmarks")
    environment = {"PYTHONPATH": ":".join(map(str, rooms)), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", STEPS, preset, *PRESETS[preset]]
    return subprocess.Popen(
        command, cwd=checkout, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path, metavar="CHECKOUT")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    print("| preset | before, ms | after, ms | ratio |\n|---|---:|---:|---:|")
    for preset in PRESETS:
        trained = [started(checkout.absolute(), preset) for checkout in options.checkouts]
        seconds = [[], []]
        for turn in range(-3, options.steps):
            for number in (0, 1) if turn % 2 else (1, 0):
                print(file=trained[number].stdin, flush=True)
                took = float(trained[number].stdout.readline())
                if turn >= 0:
                    seconds[number].append(took)
        for process in trained:
            process.stdin.close()
            process.wait()
            process.stdout.close()
        before, after = map(min, seconds)
        print(f"| `{preset}` | {1000 * before:.2f} | {1000 * after:.2f} | {after / before:.3f} |", flush=True)


if __name__ == "__main__":
    main()
