"""Each condition's samples against the exact conditional law of a mixture, with replacement and with particles.

    python benchmarks/condition_exactness.py [--samples 2000] [--target mnist_mfa] [--sampler X] [--condition X ...]

Without a target: a mixture of four factor analysers over 3 x 2 x 2 images, whose known and unknown parts tell of each
other. Bold: within two standard errors of what as many exact samples score.
"""

import argparse
import time

import torch

from scoresde_core import ConditionedSampler, Evidence, ExactScore, create, sample
from scoresde_plugins.targets.conditional import given
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers

METRICS = ("mode_weights", "moments", "energy_distance")
METHODS = [("{}", rounds) for rounds in (1, 10, 40)]
METHODS += [("smcdiff[condition={},particles=" + str(k) + "]", 1) for k in (4, 16, 64)]


def correlated(seed=4, std=0.2):
    """Four components of two factors over 3 x 2 x 2 images, that grey, block means and the left half tell little of."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    means -= 0.6 * means.mean(1, keepdim=True)
    means -= 0.6 * means.mean((2, 3), keepdim=True)
    means[..., 0] *= 0.3
    factors = 0.3 * torch.randn(4, 2, 12, generator=generator, dtype=torch.float64)
    noise = torch.full((12,), std**2, dtype=torch.float64)
    return MixtureOfFactorAnalysers(torch.tensor([0.4, 0.3, 0.2, 0.1]), means.flatten(1), factors, noise, (3, 2, 2))


def cell(metric):
    """``value ± stderr``, bold where two standard errors reach the floor."""
    near = abs(metric.value - metric.floor) <= 2 * (metric.stderr**2 + metric.floor_stderr**2) ** 0.5
    text = f"{metric.value:.3f} ± {metric.stderr:.3f}"
    return f"**{text}**" if near else text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target")
    parser.add_argument("--sde", default="vp")
    parser.add_argument("--sampler", default="pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=50]")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--event", type=int, default=1, help="which draw of the target is observed")
    parser.add_argument("--condition", nargs="+", default=["inpaint[mask=left]", "colorize", "linear[factor=2]"])
    arguments = parser.parse_args()
    target = create("targets", arguments.target).mixture if arguments.target else correlated()
    sampler, sde = create("samplers", arguments.sampler), create("sdes", arguments.sde)
    x = target.sample(arguments.event + 1, seed=7)[-1:].expand(arguments.samples, *target.shape)
    evaluators = [create("evaluators", name) for name in METRICS]
    print(f"| condition | method | NFE | {' | '.join(METRICS)} | seconds |")
    print("|---|---|--:|" + "--:|" * len(METRICS) + "--:|")
    for condition in arguments.condition:
        exact = given(target, create("conditions", condition).observe(x[:1]))
        print(f"| {condition} | exact, weights {[round(w, 3) for w in exact.law.modes().sort(descending=True)[0].tolist()]}")
        for text, rounds in METHODS:
            observed, began = create("conditions", text.format(condition)).observe(x), time.perf_counter()
            drawn = sample(ExactScore(target), sde, ConditionedSampler(sampler, observed, rounds), target.shape, len(x))
            seconds = time.perf_counter() - began
            evidence = Evidence(exact.unknown(drawn.x), target=exact.law, seed=1)
            cells = [cell(evaluator.evaluate(evidence)[0]) for evaluator in evaluators]
            method = text.format("...") if "{" in text and text != "{}" else f"replacement, rounds={rounds}"
            print(f"| | {method} | {drawn.nfe:g} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
