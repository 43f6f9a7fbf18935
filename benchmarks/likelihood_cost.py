"""What a likelihood costs: drift and divergence from one forward pass against two separate passes, in one run.

    python benchmarks/likelihood_cost.py [--network ncsnpp] [--images 8] [--device cuda]

Both solve the same ODE with the same solver, tolerances, network and probe, so their evaluations are equally many and
their numbers agree; ``separate`` computes the drift and the divergence by a forward pass each, as published code does.
A third row solves as published in every respect: the flattened state in SciPy's RK45 on the CPU in float64, one error
norm for state and log density (needs scipy).
"""

import argparse
import math
import time

import torch

from scoresde_core import NetworkScore, create
from scoresde_core.cli.environment import describe_device
from scoresde_core.device import find_device
from scoresde_plugins.score_sde import likelihood
from scoresde_plugins.score_sde.divergence import score_and_divergence
from scoresde_plugins.score_sde.flow import Solver

NETWORKS = {
    "mlp": ("mlp[width=256]", (1, 16, 16)),
    "ncsnpp": ("ncsnpp[nf=32,ch_mult=[1,2],num_res_blocks=2,attn_resolutions=[]]", (1, 28, 28)),
}


def two_passes(model, x, level, probes=None):
    """The score without a graph, and its divergence from a second forward pass."""
    score = model.score(x, level)
    _, divergence = score_and_divergence(model, x, level, probes)
    return score, divergence


def published(model, sde, x, probe, tolerance):
    """-log p by SciPy's RK45 on one flat float64 state, as score_sde_pytorch does it."""
    from scipy.integrate import solve_ivp

    size = x.numel()

    def along(t, state):
        at = torch.from_numpy(state[:size]).reshape(x.shape).to(x)
        time_ = torch.tensor(t, dtype=torch.float64)
        score, divergence = two_passes(model, at, sde.level(time_), probe)
        f, g2 = float(sde.drift_rate(time_)), float(sde.diffusion(time_)) ** 2
        drift = (f * at - 0.5 * g2 * score).flatten().double().cpu()
        growth = (f * x[0].numel() - 0.5 * g2 * divergence).cpu()
        return torch.cat([drift, growth]).numpy()

    start = torch.cat([x.flatten().double().cpu(), torch.zeros(len(x), dtype=torch.float64)]).numpy()
    end = solve_ivp(along, (1e-5, 1.0), start, rtol=tolerance, atol=tolerance, method="RK45").y[:, -1]
    latent = torch.from_numpy(end[:size]).reshape(x.shape)
    return sde.prior.log_prob(latent) + torch.from_numpy(end[size:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="mlp", choices=sorted(NETWORKS))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device, sde = find_device(arguments.device), create("sdes", "vp")
    text, shape = NETWORKS[arguments.network]
    spec = create("networks", text)
    torch.manual_seed(0)
    module = spec.build(shape).to(device).eval().requires_grad_(False)
    model = NetworkScore(module, sde, parameterisation=spec.parameterisation, label=spec.label)
    x = torch.rand(arguments.images, *shape, device=device) * 2 - 1
    probe = torch.where(torch.randn(1, *x.shape, device=device) >= 0, 1.0, -1.0)
    solver = Solver(rtol=arguments.tolerance, atol=arguments.tolerance)

    def ours():
        return likelihood.log_likelihood(model, sde, x, solver=solver).log_prob

    def separate():
        likelihood.score_and_divergence = two_passes
        try:
            return likelihood.log_likelihood(model, sde, x, solver=solver).log_prob
        finally:
            likelihood.score_and_divergence = score_and_divergence

    cases = {"one pass": ours, "two passes": separate}
    try:
        import scipy  # noqa: F401
    except ImportError:
        print("scipy is not installed: the published solver is left out")
    else:
        cases["two passes, scipy"] = lambda: published(model, sde, x, probe, arguments.tolerance)
    print(f"{describe_device(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, {text}, {shape}")
    with torch.no_grad():
        for name, run in cases.items():
            seconds = []
            for _ in range(arguments.repeats):
                before, started = model.calls, time.perf_counter()
                log_prob = run()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            dims = x[0].numel() * math.log(2)
            print(
                f"{name:20} {min(seconds) / len(x):8.3f} s an image, {model.calls - before:5d} forward passes, "
                f"{-float(log_prob.mean()) / dims:.4f} bits/dim"
            )


if __name__ == "__main__":
    main()
