"""What the loops cost beside the network: milliseconds a step with a trivial score, state (64, 3, 32, 32).

    python benchmarks/loop_overhead.py [--device cuda]

Prints the median, and the quartiles, over repeated runs of 50 steps; the ODE's figure is for one evaluation.
"""

import argparse
import statistics
import time

import torch

from scoresde_bench.environment import describe_device
from scoresde_core import Noise, ScoreModel, create
from scoresde_core.device import find_device, keep_freed_memory

SHAPE, BATCH, STEPS, REPEATS = (3, 32, 32), 64, 50, 15


class TrivialScore(ScoreModel):
    """-x: one kernel."""

    def evaluate(self, x, level):
        return -x


def milliseconds(run, device):
    """Sorted milliseconds a unit of work, after a warm-up; ``run`` returns how many units it did."""
    run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        units = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / units * 1e3)
    return statistics.quantiles(times, n=4)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = find_device(parser.parse_args().device)
    keep_freed_memory()  # as the command line does
    sde, model = create("sdes", "vp"), TrivialScore()

    def pc(text):
        sampler = create("samplers", text)

        def run():
            noise = Noise(0, SHAPE, BATCH, device=device)
            sampler.run(noise.draw("prior", "prior"), model, sde, noise)
            return STEPS

        return run

    def ode():
        noise = Noise(0, SHAPE, BATCH, device=device)
        before = model.calls
        create("samplers", "ode").run(noise.draw("prior", "prior"), model, sde, noise)
        return model.calls - before

    noise = Noise(0, SHAPE, BATCH, device=device)

    def two_draws():
        for k in range(STEPS):
            noise.draw(k, "predictor")
            noise.draw(k, "corrector")
        return STEPS

    cases = {
        "reverse diffusion + Langevin, a step": pc(f"pc[steps={STEPS},corrector=langevin]"),
        "  of which its two draws of noise": two_draws,
        "reverse diffusion, a step": pc(f"pc[steps={STEPS}]"),
        "ddim, a step": pc(f"pc[steps={STEPS},predictor=ddim]"),
        "ode (dopri5), an evaluation": ode,
    }
    print(f"{describe_device(device)}, torch {torch.__version__}, state ({BATCH}, 3, 32, 32) float32")
    for name, run in cases.items():
        low, median, high = milliseconds(run, device)
        print(f"{name:38} {median:6.2f} ms  (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
