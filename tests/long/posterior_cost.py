"""Processor time of every posterior method over that of the sampler without a condition, by turns in one run.

    python tests/long/posterior_cost.py [--turns 5] [--network]

The problem is inpainting around a box with noise 0.3, of digits of mnist_mfa: 24 samples, 20 steps of dpmpp_2m_sde, and
5 turns, of which the shortest counts. ``--network`` takes the score of mnist_vp, with 4 samples.
"""

import argparse
import time

import attrs
import torch
from scoresde import ConditionedSampler, ExactScore, create, sample
from scoresde_core import default_registry
from scoresde_run.models import checkpoint

METHODS = ["replacement", "repaint", "repaint[rounds=10,jump=10]", "ddnm", "ddrm", "diffpir", "pigdm", "dps", "dsg"]
METHODS += ["tmpd", "mmps", "tds", "smcdiff", "exact[target=mnist_mfa]"]
STEPS = "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=20]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--network", action="store_true")
    arguments = parser.parse_args()
    target, plain = create("targets", "mnist_mfa"), create("samplers", STEPS)
    registry = default_registry()
    model = ExactScore(target, create("sdes", "vp"))
    if arguments.network:
        model = checkpoint.find("mnist_vp", registry).load(registry).score()
    n = 4 if arguments.network else 24
    samplers = {"no condition": plain}
    for name in METHODS:
        noise = 0.0 if name == "smcdiff" else 0.3
        problem = create("conditions", f"linear[operator=mask[mask=box],noise={noise}]")
        method = attrs.evolve(create("conditions", name), condition=problem)
        samplers[name] = ConditionedSampler(plain, method.observe(target.sample(n)), method.rounds, method.jump)
    best = dict.fromkeys(samplers, float("inf"))
    for turn in range(arguments.turns):
        for name, sampler in samplers.items():
            started = time.process_time()
            sample(model, sampler, n, seed=turn)
            best[name] = min(best[name], time.process_time() - started)
    print(f"{n} samples, {torch.get_num_threads()} threads")
    for name, seconds in best.items():
        print(f"{name:32} {seconds:8.3f} s {seconds / best['no condition']:7.2f}")


if __name__ == "__main__":
    main()
