"""Measures the sampling loops without a network, with a trivial score and a state (64, 3, 32, 32).

    python benchmarks/studies/speed/loop_overhead.py [--device cuda] [--published CHECKOUT]

Runs of 50 steps alternate; times are those of a step, for the ODE those of an evaluation. ``--published`` also times
the samplers of a checkout of score_sde_pytorch (its ODE needs SciPy).
"""

import torch
from published import Checkout
from side_by_side import in_turn, options_of, prepare, show
from scoresde_bench.run.costs import FreeScore
from scoresde_core import Noise, create

SHAPE, BATCH, STEPS = (3, 32, 32), 64, 50


def published(checkout, device):
    code = Checkout(checkout, device)
    sampling, sde, model = code.module("sampling"), code.module("sde_lib").VPSDE(N=STEPS), torch.nn.Module()
    model.forward = lambda x, label: -x
    common = {"sde": sde, "shape": (BATCH, *SHAPE), "inverse_scaler": lambda x: x, "device": device}
    parts = {"predictor": sampling.ReverseDiffusionPredictor, "corrector": sampling.LangevinCorrector}
    pc, ode = sampling.get_pc_sampler(**parts, snr=0.16, continuous=True, **common), sampling.get_ode_sampler(**common)
    return {
        "published: reverse diffusion + Langevin": lambda: pc(model) and STEPS,
        "published: ode (scipy RK45), an evaluation": lambda: ode(model)[1],
    }


def ours(device):
    """Runs of our samplers, which return their number of steps or evaluations."""
    model = FreeScore(create("sdes", "vp"), SHAPE)

    def run(text, steps=STEPS):
        noise, before = Noise(0, SHAPE, BATCH, device=device), model.calls
        create("samplers", text).run(noise.draw("prior", "prior"), model, noise)
        return steps or model.calls - before

    def two_draws():
        noise = Noise(0, SHAPE, BATCH, device=device)
        for k in range(STEPS):
            noise.draw(k, "predictor")
            noise.draw(k, "corrector")
        return STEPS

    return {
        "reverse diffusion + Langevin, a step": lambda: run(f"pc[steps={STEPS},corrector=langevin]"),
        "  of which two draws of noise": two_draws,
        "reverse diffusion, a step": lambda: run(f"pc[steps={STEPS}]"),
        "ddim, a step": lambda: run(f"pc[steps={STEPS},predictor=ddim]"),
        "ode (dopri5), an evaluation": lambda: run("ode", 0),
    }


options = options_of(__doc__).parse_args()
device, where = prepare(options)
print(where)
with torch.no_grad():
    runs = ours(device) | (published(options.published, device) if options.published else {})
    measured = in_turn(runs, device, options.repeat)
for found in measured.values():
    found.seconds = [taken / found.result for taken in found.seconds]
show(f"state ({BATCH}, 3, 32, 32)", measured)
