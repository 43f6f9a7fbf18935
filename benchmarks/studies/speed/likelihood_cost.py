"""Measures the cost of a likelihood per image: ours, ours in two forward passes, and the published code.

    python benchmarks/studies/speed/likelihood_cost.py [--network ncsnpp] [--images 8] [--device cuda]
    python benchmarks/studies/speed/likelihood_cost.py --network ncsnpp --threads 2 --published ~/score_sde_pytorch

All solve the same ODE (VP, t from 1e-5) to the same tolerances with the same weights, data and probes, so their numbers
agree. ``one pass`` is ours; ``two passes`` computes drift and divergence in a forward pass each; ``published code`` is
likelihood.py of a checkout (published.py; needs scipy) with its own network, or for the MLP with ours.
"""

import math
from unittest.mock import patch

import torch
from published import Checkout
from side_by_side import compare, options_of, randomised, show

from scoresde import NetworkScore, create
from scoresde_plugins.likelihood import likelihood
from scoresde_plugins.numerics.divergence import score_and_divergence
from scoresde_plugins.numerics.flow import Solver
from scoresde_run.machine.device import use_tf32

SMALL = {"nf": 32, "ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [14]}
NETWORKS = {
    "mlp": ("mlp", {"width": 256}, (1, 16, 16)),
    "ncsnpp": ("ncsnpp", SMALL, (1, 28, 28)),
    "cifar10": ("ncsnpp", {}, (3, 32, 32)),
}
SEED = 0


def two_passes(model, x, level, probes=None):
    """The score without a graph, and its divergence from a second forward pass."""
    return model.score(x, level), score_and_divergence(model, x, level, probes)[1]


def published_run(published, name, module, x, tolerance):
    """A function that returns (bits/dim of ``x``, evaluations) as the published likelihood.py computes them."""
    _, changes, (channels, size, _) = NETWORKS[name]
    if name != "mlp":
        data = {"data.image_size": size, "data.num_channels": channels, "data.centered": True}
        model = {f"model.{key}": value for key, value in changes.items()}
        module = published.network(published.config("vp_cifar10_ncsnpp_continuous", {**model, **data}), module)
    sde = published.module("sde_lib").VPSDE(beta_min=0.1, beta_max=20, N=1000)
    of = published.module("likelihood").get_likelihood_fn(sde, lambda x: (x + 1) / 2, rtol=tolerance, atol=tolerance)

    def run():
        torch.manual_seed(SEED)
        bits, _, evaluations = of(module, x)
        return bits - 7, 2 * evaluations  # 7: from density to 8-bit images; 2: passes for drift and divergence

    return run


def cases_of(options, device):
    """The ways to compute it: functions that return (bits/dim of every image, forward passes)."""
    use_tf32(False)  # for the published code too: with 10 bits an ODE has no solution to 1e-5
    kind, parameters, shape = NETWORKS[options.network]
    spec = create("networks", kind, **parameters)
    module = randomised(spec.build(shape).eval()).to(device)
    model = NetworkScore(module, create("sdes", "vp"), shape, parameterisation=spec.parameterisation, label=spec.label)
    x = torch.rand(options.images, *shape, device=device) * 2 - 1
    solver = Solver(rtol=options.tolerance, atol=options.tolerance)
    torch.manual_seed(SEED)  # the Rademacher probe that the published code draws, as ours (1, B, ...)
    probes = torch.randint_like(x, low=0, high=2).float().unsqueeze(0) * 2 - 1

    def ours(**exchanged):
        with patch.multiple(likelihood, draw_probes=lambda *_: probes, **exchanged):
            found = likelihood.log_likelihood(model, x, solver=solver)
        return -found.log_prob / (x[0].numel() * math.log(2)), int(found.nfe[0])

    cases = {"one pass": ours, "two passes": lambda: ours(score_and_divergence=two_passes)}
    if options.published:
        published = Checkout(options.published, device)
        cases["published code"] = published_run(published, options.network, module, x, options.tolerance)
    return cases


@torch.no_grad()
def main():
    parser = options_of(__doc__, published=True)
    parser.set_defaults(repeat=3)
    parser.add_argument("--network", default="mlp", choices=NETWORKS)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    measured = compare(lambda device: cases_of(options, device), options, warm_up=0)
    found = {name: case.result for name, case in measured.items() if case.seconds}
    bits = {name: f"{float(values.mean()):.4f}" for name, (values, _) in found.items()}
    passes = {name: count for name, (_, count) in found.items()}
    show(f"{options.network}, {options.images} images", measured, options.images, passes=passes, bits_per_dim=bits)


if __name__ == "__main__":
    main()
