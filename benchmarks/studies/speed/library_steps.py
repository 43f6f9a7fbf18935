"""Times our samplers beside the loops of other libraries for the same method, with a free network and (64, 3, 32, 32).

    python benchmarks/studies/speed/library_steps.py [--threads 1] [--repeat 10]

Each runs its own loop alone, with its own random numbers. The network returns its input as the noise, from which each
makes what its sampler needs, so that its arithmetic remains. Runs of 50 steps alternate; times are those of an
evaluation.
"""

import torch
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


class Counted:
    """A network that returns its input, and counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x


def ours(process, predictor):
    model = FreeScore(create("sdes", process), SHAPE)

    def run():
        noise, before = Noise(0, SHAPE, BATCH), model.calls
        create("samplers", f"pc[predictor={predictor},steps={STEPS}]").run(noise.draw("prior", "prior"), model, noise)
        return model.calls - before

    return run


def diffusers(name):
    import diffusers

    scheduler = getattr(diffusers, f"{name}Scheduler")()

    def run():
        network, x = Counted(), torch.randn(BATCH, *SHAPE)
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t)), t, x).prev_sample
        return network.calls

    return run


def k_diffusion(name):
    from k_diffusion import sampling

    def run():
        network, sigmas = Counted(), sampling.get_sigmas_karras(STEPS, 0.002, 80.0)
        denoiser = lambda x, sigma: x - sigma.reshape(-1, 1, 1, 1) * network(x)  # noqa: E731
        getattr(sampling, f"sample_{name}")(denoiser, 80.0 * torch.randn(BATCH, *SHAPE), sigmas, disable=True)
        return network.calls

    return run


def azula(name):
    from azula import denoise, noise, sample

    class Denoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.schedule, self.network = noise.VPSchedule(), Counted()

        def forward(self, x, t):
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior((x - sigma * self.network(x)) / alpha)

    def run():
        denoiser = Denoiser()
        getattr(sample, f"{name}Sampler")(denoiser, steps=STEPS, silent=True)(torch.randn(BATCH, *SHAPE))
        return denoiser.network.calls

    return run


options = options_of(__doc__, published=False).parse_args()
device, where = prepare(options)
print(where)
for method, (process, predictor, *theirs) in METHODS.items():
    runs = {"ours": ours(process, predictor)}
    runs |= {
        make.__name__: make(name) for make, name in zip((diffusers, k_diffusion, azula), theirs, strict=True) if name
    }
    with torch.no_grad():
        measured = in_turn(runs, device, options.repeat)
    for found in measured.values():
        found.seconds = [taken / found.result for taken in found.seconds]
    show(method, measured)
