"""What the loops cost beside the network: milliseconds a step with a trivial score, state (64, 3, 32, 32).

    python benchmarks/studies/speed/loop_overhead.py [--device cuda] [--published CHECKOUT]

Prints the median, and the quartiles, over repeated runs of 50 steps; the ODE's figure is for one evaluation. The cases
take turns, so that a busy machine slows all of them alike. ``--published`` takes a checkout of score_sde_pytorch, whose
samplers then run beside ours (their ODE needs SciPy).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from scoresde_core import Noise, ScoreModel, create
from scoresde_run.machine.device import find_device, keep_freed_memory
from scoresde_run.machine.environment import describe_device

SHAPE, BATCH, STEPS, REPEATS = (3, 32, 32), 64, 50, 15


class TrivialScore(ScoreModel):
    """-x: one kernel."""

    def evaluate(self, x, level):
        return -x


def milliseconds(cases, device):
    """Quartiles of the milliseconds a unit of work of each case, which returns how many units it did."""
    times = {name: [] for name in cases}
    for repeat in range(1 + REPEATS):
        for name, run in cases.items():
            started = time.perf_counter()
            units = run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat:  # the first turn warms up
                times[name].append((time.perf_counter() - started) / units * 1e3)
    return {name: statistics.quantiles(values, n=4) for name, values in times.items()}


def published(checkout, device):
    """The published samplers on the same score, as cases."""
    sys.path.insert(0, str(checkout))
    import sampling
    import sde_lib

    sde, shape, model = sde_lib.VPSDE(N=STEPS), (BATCH, *SHAPE), torch.nn.Module()
    model.forward = lambda x, label: -x
    common = {"sde": sde, "shape": shape, "inverse_scaler": lambda x: x, "device": device}
    pc = sampling.get_pc_sampler(
        predictor=sampling.ReverseDiffusionPredictor,
        corrector=sampling.LangevinCorrector,
        snr=0.16,
        continuous=True,
        **common,
    )
    ode = sampling.get_ode_sampler(**common)

    def steps():
        pc(model)
        return STEPS

    return {
        "published: reverse diffusion + Langevin": steps,
        "published: ode (scipy RK45), an evaluation": lambda: ode(model)[1],
    }


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--published", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    device = find_device(options.device)
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
    if options.published:
        cases |= published(options.published, device)
    print(f"{describe_device(device)}, torch {torch.__version__}, state ({BATCH}, 3, 32, 32) float32")
    for name, (low, median, high) in milliseconds(cases, device).items():
        print(f"{name:42} {median:6.2f} ms  (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
