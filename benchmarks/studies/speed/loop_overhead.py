"""Measures the sampling loops without a network, with a trivial score and a state (64, 3, 32, 32).

    python benchmarks/studies/speed/loop_overhead.py [--device cuda] [--published CHECKOUT]
    python benchmarks/studies/speed/loop_overhead.py --target [--samples 1024]

Runs of 50 steps alternate; times are those of a step, for the ODE those of an evaluation. ``--published`` also times
the samplers of a checkout of score_sde_pytorch (its ODE needs SciPy). ``--target`` times a score of mnist_mfa instead.
"""

import sys
from itertools import count

import torch
from side_by_side import in_turn, options_of, prepare, show

from scoresde_core import Level, Noise, ScoreModel, create
from scoresde_run.machine.environment import describe_device

SHAPE, BATCH, STEPS = (3, 32, 32), 64, 50


class TrivialScore(ScoreModel):
    """-x: one kernel."""

    def __init__(self, sde):
        self.sde, self.shape = sde, SHAPE

    def evaluate(self, x, level):
        return -x


def published(checkout, device):
    sys.path.insert(0, str(checkout))
    import sampling
    import sde_lib

    sde, shape, model = sde_lib.VPSDE(N=STEPS), (BATCH, *SHAPE), torch.nn.Module()
    model.forward = lambda x, label: -x
    common = {"sde": sde, "shape": shape, "inverse_scaler": lambda x: x, "device": device}
    parts = {"predictor": sampling.ReverseDiffusionPredictor, "corrector": sampling.LangevinCorrector}
    pc = sampling.get_pc_sampler(**parts, snr=0.16, continuous=True, **common)
    ode = sampling.get_ode_sampler(**common)
    return {
        "published: reverse diffusion + Langevin": lambda: pc(model) and STEPS,
        "published: ode (scipy RK45), an evaluation": lambda: ode(model)[1],
    }


def loops(device):
    """Runs of our samplers, which return their number of steps or evaluations."""
    model = TrivialScore(create("sdes", "vp"))

    def run(text, steps=STEPS):
        noise, before, sampler = Noise(0, SHAPE, BATCH, device=device), model.calls, create("samplers", text)
        sampler.run(noise.draw("prior", "prior"), model, noise)
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


def scores(samples, device):
    target = create("targets", "mnist_mfa").to(device)
    components, factors, dim = target.mixture.factors.shape
    x, sigma = target.sample(samples, seed=0).to(device), torch.linspace(0.01, 1, samples, device=device)
    stack = torch.randn(components * (factors + 1), dim, device=device)
    fresh = (Level(0.5, 0.9, 0.3 + 1e-4 * k) for k in count())
    return {
        "score, level cached": lambda: target.score(x, Level(0.5, 0.9, 0.3)),
        "score, new level": lambda: target.score(x, next(fresh)),
        "score, a level per row": lambda: target.score(x, Level(sigma, 1.0, sigma)),
        "log density, new level": lambda: target.log_prob(x, next(fresh)),
        "the two products alone": lambda: (x.flatten(1) @ stack.T) @ stack,
    }


@torch.no_grad()
def main():
    parser = options_of(__doc__, published=True)
    parser.add_argument("--target", action="store_true", help="time the score of mnist_mfa, not the loops")
    parser.add_argument("--samples", type=int, default=1024, help="events of a score")
    options = parser.parse_args()
    device = prepare(options, keep_memory=not options.target)
    print(f"{describe_device(device)}, torch {torch.__version__}, float32")
    if options.target:
        show(f"{options.samples} events", in_turn(scores(options.samples, device), device, options.repeat, warm_up=3))
        return
    cases = loops(device) | (published(options.published, device) if options.published else {})
    measured = in_turn(cases, device, options.repeat)
    for found in measured.values():
        found.seconds = [taken / found.result for taken in found.seconds]
    show(f"state ({BATCH}, 3, 32, 32)", measured)


if __name__ == "__main__":
    main()
