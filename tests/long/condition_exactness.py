"""Compares samples of every condition with the exact conditional law of a mixture, with replacement and particles.

    python tests/long/condition_exactness.py [--samples 2000] [--target mnist_mfa] [--sampler X] \\
        [--condition X ...]

Without a target: a mixture of four factor analysers over 3 x 2 x 2 images, whose known and unknown parts are
correlated. A cell has the total variation of the mode weights, and the Wasserstein-2 distance between Gaussians
with the same mean and covariance; bold: as good as as many exact samples, by the rule of the bench's tables.
"""

import argparse
import sys
from pathlib import Path

import attrs
import torch
from scoresde import ConditionedSampler, Evidence, ExactScore, create, sample
from scoresde_bench.report.ranking import metric_value
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers

sys.path.insert(0, str(Path(__file__).parents[1]))

from conditional_law import given

METRICS = ("mode_weights", "moments")
PARTICLES = "smcdiff[condition={},particles=%d]"
METHODS = [("replacement", "{}", rounds, 1) for rounds in (1, 10, 40)]
METHODS += [(f"{k} particles", PARTICLES % k, rounds, 1) for k, rounds in ((4, 1), (16, 1), (16, 4), (64, 1))]
METHODS += [("64 particles", PARTICLES % 64, 1, 3)]


def correlated(seed=4, std=0.2):
    """Four components of two factors over 3 x 2 x 2 images, little determined by grey, block means or the left half."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    means -= 0.6 * means.mean(1, keepdim=True)
    means -= 0.6 * means.mean((2, 3), keepdim=True)
    means[..., 0] *= 0.3
    factors = 0.3 * torch.randn(4, 2, 12, generator=generator, dtype=torch.float64)
    noise = torch.full((12,), std**2, dtype=torch.float64)
    return MixtureOfFactorAnalysers(torch.tensor([0.4, 0.3, 0.2, 0.1]), means.flatten(1), factors, noise, (3, 2, 2))


def cell(samples, exact):
    """``value ± stderr`` of each metric, bold if as good as exact samples."""
    texts, evidence = [], Evidence(exact.unknown(samples), target=exact.law, seed=1)
    for name in METRICS:
        (metric,) = create("evaluators", name).evaluate(evidence)
        found = metric_value({"status": "done", "metrics": {name: metric.plain()}}, name)
        text = f"{metric.value:.3f} ± {metric.stderr:.3f}"
        texts.append(f"**{text}**" if found.as_good else text)
    return ", ".join(texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target")
    parser.add_argument("--sde", default="vp")
    parser.add_argument("--sampler", default="pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=50]")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--event", type=int, default=1, help="index of the draw of the target that is observed")
    parser.add_argument("--condition", nargs="+", default=["inpaint[mask=left]", "colorize", "linear"])
    arguments = parser.parse_args()
    target = create("targets", arguments.target).mixture if arguments.target else correlated()
    sampler, sde = create("samplers", arguments.sampler), create("sdes", arguments.sde)
    x = target.sample(arguments.event + 1, seed=7)[-1:].expand(arguments.samples, *target.shape)
    laws = [given(target, create("conditions", condition).observe(x[:1])) for condition in arguments.condition]
    print(f"| | NFE | {' | '.join(f'`{condition}`' for condition in arguments.condition)} |")
    print("|---|--:|" + "---|" * len(laws))
    weights = [", ".join(f"{w:.2f}" for w in law.law.modes().sort(descending=True)[0][:4].tolist()) for law in laws]
    print(f"| largest weights | | {' | '.join(weights)} |")
    exact = [cell(law.events(law.law.sample(len(x), seed=3)), law) for law in laws]
    print(f"| exact samples | | {' | '.join(exact)} |", flush=True)
    for name, text, rounds, finer in METHODS:
        cells, steps = [], attrs.evolve(sampler, steps=finer * sampler.steps)
        for condition, law in zip(arguments.condition, laws, strict=True):
            observed = create("conditions", text.format(condition)).observe(x)
            drawn = sample(ExactScore(target, sde), ConditionedSampler(steps, observed, rounds), len(x))
            cells.append(cell(drawn.x, law))
        label = name + (f", `rounds={rounds}`" if rounds > 1 else "") + (f", {steps.steps} steps" if finer > 1 else "")
        print(f"| {label} | {drawn.nfe:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
