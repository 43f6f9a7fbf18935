"""Measures the sampling loops without a network, with a trivial score and a state (64, 3, 32, 32).

    python benchmarks/studies/speed/loop_overhead.py [--device cuda] [--published CHECKOUT] [--libraries]

Runs of 50 steps alternate; times are those of a step, for the ODE those of an evaluation. ``--published`` also times
the samplers of a checkout of score_sde_pytorch (its ODE needs SciPy), ``--libraries`` those of diffusers, k-diffusion
and azula for the same methods: each in its own loop, with its own random numbers, around a network that returns its
input as the noise, from which each makes what its sampler needs.
"""

from functools import partial

import torch
from published import Checkout
from side_by_side import in_turn, options_of, prepare, show
from scoresde_bench.run.costs import FreeScore
from scoresde_core import Noise, create

SHAPE, BATCH, STEPS = (3, 32, 32), 64, 50
METHODS = {  # ours by its process and predictor; schedulers of diffusers; functions of k-diffusion; samplers of azula
    "DDIM": ("vp", "ddim", "DDIM", None, "DDIM"),
    "ancestral": ("vp", "ancestral_sampling", "DDPM", "euler_ancestral", "DDPM"),
    "Heun": ("edm", "heun", "HeunDiscrete", "heun", "Heun"),
    "DPM-Solver++(2M)": ("edm", "dpmpp_2m", "DPMSolverMultistep", "dpmpp_2m", None),
    "SDE-DPM-Solver++(2M)": ("edm", "dpmpp_2m_sde", None, "dpmpp_2m_sde", None),
    "UniPC": ("vp", "unipc", "UniPCMultistep", None, None),
    "DEIS": ("vp", "deis[max_order=2]", "DEISMultistep", None, "zEAB"),
    "PNDM": ("vp", "pndm", "PNDM", None, None),
}


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


def run(sampler, process="vp", steps=0):
    """Run one of ours; returns the number of its steps, or else of its evaluations."""
    model, noise = FreeScore(create("sdes", process), SHAPE), Noise(0, SHAPE, BATCH, device=device)
    create("samplers", sampler).run(noise.draw("prior", "prior"), model, noise)
    return steps or model.calls


def two_draws():
    noise = Noise(0, SHAPE, BATCH, device=device)
    for k in range(STEPS):
        noise.draw(k, "predictor")
        noise.draw(k, "corrector")
    return STEPS


OURS = {
    "reverse diffusion + Langevin, a step": lambda: run(f"pc[steps={STEPS},corrector=langevin]", steps=STEPS),
    "  of which two draws of noise": two_draws,
    "reverse diffusion, a step": lambda: run(f"pc[steps={STEPS}]"),
    "ddim, a step": lambda: run(f"pc[steps={STEPS},predictor=ddim]"),
    "ode (dopri5), an evaluation": lambda: run("ode"),
}


def diffusers(name, network, z):
    import diffusers

    scheduler, x = getattr(diffusers, f"{name}Scheduler")(), z
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t)), t, x).prev_sample


def k_diffusion(name, network, z):
    from k_diffusion import sampling

    def denoiser(x, sigma):
        return x - sigma.reshape(-1, 1, 1, 1) * network(x)

    sigmas = sampling.get_sigmas_karras(STEPS, 0.002, 80.0)
    getattr(sampling, f"sample_{name}")(denoiser, 80.0 * z, sigmas, disable=True)


def azula(name, network, z):
    from azula import denoise, noise, sample

    class Denoiser(torch.nn.Module):
        schedule = noise.VPSchedule()

        def forward(self, x, t):
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior((x - sigma * network(x)) / alpha)

    getattr(sample, f"{name}Sampler")(Denoiser(), steps=STEPS, silent=True)(z)


def run_theirs(library, name):
    """Run a sampler of a library from new noise; returns the number of its evaluations."""
    calls = []
    library(name, lambda x: calls.append(x.shape) or x, torch.randn(BATCH, *SHAPE, device=device))
    return len(calls)


def compare(title, runs):
    with torch.no_grad():
        measured = in_turn(runs, device, options.repeat)
    for found in measured.values():
        found.seconds = [taken / found.result for taken in found.seconds]
    show(title, measured)


parser = options_of(__doc__)
parser.add_argument("--libraries", action="store_true", help="compare with the loops of other libraries")
options = parser.parse_args()
device, where = prepare(options)
print(where)
compare(f"state ({BATCH}, 3, 32, 32)", OURS | (published(options.published, device) if options.published else {}))
for method, (process, predictor, *theirs) in METHODS.items() if options.libraries else ():
    runs = {"ours": partial(run, f"pc[predictor={predictor},steps={STEPS}]", process)}
    known = zip((diffusers, k_diffusion, azula), theirs, strict=True)
    runs |= {library.__name__: partial(run_theirs, library, name) for library, name in known if name}
    compare(f"{method}, an evaluation", runs)
