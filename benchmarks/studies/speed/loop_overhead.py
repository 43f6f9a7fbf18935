"""Measures the sampling loops without a network: milliseconds per step with a trivial score, state (64, 3, 32, 32).

    python benchmarks/studies/speed/loop_overhead.py [--device cuda] [--published CHECKOUT]

Prints median and quartiles over repeated runs of 50 steps; for the ODE, per evaluation. The cases run in turn, so that
a busy machine slows all alike. ``--published`` also times the samplers of a checkout of score_sde_pytorch (its ODE
needs SciPy).
"""

import statistics
import sys

import torch
from side_by_side import options_of, prepare, seconds

from scoresde_core import Noise, ScoreModel, create
from scoresde_run.machine.environment import describe_device

SHAPE, BATCH, STEPS, REPEATS = (3, 32, 32), 64, 50, 15


class TrivialScore(ScoreModel):
    """-x: one kernel."""

    def __init__(self, sde):
        self.sde, self.shape = sde, SHAPE

    def evaluate(self, x, level):
        return -x


def milliseconds(cases, device):
    """Quartiles of the milliseconds per unit of work of each case, which returns its number of units."""
    times = {name: [] for name in cases}
    for repeat in range(1 + REPEATS):
        for name, run in cases.items():
            units = []
            taken = seconds(lambda run=run, units=units: units.append(run()), device)
            if repeat:  # the first turn warms up
                times[name].append(taken / units[0] * 1e3)
    return {name: statistics.quantiles(values, n=4) for name, values in times.items()}


def published(checkout, device):
    """The published samplers on the same score."""
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
    options = options_of(__doc__, published=True).parse_args()
    device = prepare(options)
    model = TrivialScore(create("sdes", "vp"))

    def pc(text):
        sampler = create("samplers", text)

        def run():
            noise = Noise(0, SHAPE, BATCH, device=device)
            sampler.run(noise.draw("prior", "prior"), model, noise)
            return STEPS

        return run

    def ode():
        noise = Noise(0, SHAPE, BATCH, device=device)
        before = model.calls
        create("samplers", "ode").run(noise.draw("prior", "prior"), model, noise)
        return model.calls - before

    noise = Noise(0, SHAPE, BATCH, device=device)

    def two_draws():
        for k in range(STEPS):
            noise.draw(k, "predictor")
            noise.draw(k, "corrector")
        return STEPS

    cases = {
        "reverse diffusion + Langevin, a step": pc(f"pc[steps={STEPS},corrector=langevin]"),
        "  of which two draws of noise": two_draws,
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
