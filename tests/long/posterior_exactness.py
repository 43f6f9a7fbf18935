"""Compares samples of every posterior method with the exact posterior of a mixture, for many observations.

    python tests/long/posterior_exactness.py [--problem plane gaussian factors digits] [--noise 0.1 0.3 1] [--scale 0.5]

A cell is a problem, a level of noise and a method; its numbers are means over observations of draws of the target, with
standard errors over these:

    gap       |sample mean - E[x | y]|^2 over the posterior variance, without what chance gives
    spread    variance of the samples over that of the posterior, summed over entries
    inside    share of exact posterior draws in the central 90 % interval of the samples, entry by entry
    residual  root mean square of y - A x in units of the noise, over that of exact draws
    sliced    sliced Wasserstein-1 distance to as many exact draws, in the posterior's standard deviations; bold: no
              more than that of other exact draws, by two standard errors
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from scoresde import ConditionedSampler, ExactScore, create, sample

sys.path.insert(0, str(Path(__file__).parents[1]))

from exact_conditional import CROSS, correlated
from exact_posterior import law_of

GAUSSIAN = "gaussian[shape=[1,8,8],decay=3]"
PROBLEMS = {
    "plane": (lambda: (CROSS, None), "mask", 24, 400),
    "gaussian": (lambda: (create("targets", GAUSSIAN), GAUSSIAN), "blur[width=1]", 16, 200),
    "factors": (lambda: (correlated(), None), "average", 24, 300),
    "digits": (lambda: (create("targets", "mnist_mfa"), "mnist_mfa"), "average[factor=4]", 4, 60),
}
METHODS = ["exact", "mmps", "tmpd", "pigdm", "diffpir", "dps", "ddnm", "ddrm", "replacement", "repaint"]


def observation(name, condition, known, target, scale):
    """The observation of ``known`` by a method, and its rounds."""
    if name in ("replacement", "repaint"):
        return known, 5 if name == "repaint" else 1
    more = {"exact": {"target": target}, "dps": {"scale": scale}}.get(name, {})
    cls = type(create("conditions", "exact[target=mixture2d]" if name == "exact" else name))
    return cls(condition=condition, **more).given(known), 1


def numbers(x, exact, law, residual):
    """The numbers of samples ``x`` (n, D) of one observation, beside exact draws ``exact`` (n, D)."""
    mean, covariance = law.moments()
    total = float(covariance.trace())
    own = x.var(0).sum()
    low, high = x.quantile(0.05, 0), x.quantile(0.95, 0)
    inside = ((exact >= low) & (exact <= high)).double().mean()
    directions = torch.randn(x.shape[1], 64, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    directions /= directions.norm(dim=0) * (total / x.shape[1]) ** 0.5
    sliced = float(((x @ directions).sort(0)[0] - (exact @ directions).sort(0)[0]).abs().mean())
    gap = ((x.mean(0) - mean).square().sum() - own / len(x)) / total
    return [float(gap), float(own) / total, float(inside), residual(x) / residual(exact), sliced]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", nargs="+", default=[*PROBLEMS], choices=PROBLEMS)
    parser.add_argument("--noise", nargs="+", type=float, default=[0.1, 0.3, 1.0])
    parser.add_argument("--method", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--sde", default="vp")
    parser.add_argument("--sampler", default="pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=100]")
    parser.add_argument("--scale", type=float, default=0.5, help="of dps, over the root of the number of measurements")
    arguments = parser.parse_args()
    print("| problem | noise | method | NFE | products | seconds | gap | spread | inside 90 % | residual | sliced |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in arguments.problem:
        make, operator, count, n = PROBLEMS[name]
        target, _ = make()
        for noise in arguments.noise:
            run(arguments, name, target, operator, noise, count, n)


def run(arguments, name, target, operator, noise, count, n):
    condition = create("conditions", f"linear[operator={operator},noise={noise},smallest=1e-6]")
    x = target.sample(count, seed=7).double()
    known, shape = condition.observe(x), target.shape
    rows = torch.arange(count).repeat_interleave(n)
    laws = [law_of(target.as_mixture(), known, row) for row in range(count)]
    draws = [law.sample(n, seed=2 * row).double().flatten(1) for row, law in enumerate(laws)]

    def residual(row):
        def of(x):
            values = known.values[row : row + 1] * known.gain
            off = known.seen(x.reshape(-1, *shape)) * known.gain - torch.where(known.known, values, 0.0)[0]
            return float((off.square().sum() / len(x) / known.known.sum()).sqrt()) / noise

        return of

    def line(method, drawn, nfe, products, seconds, floor=None):
        parts = drawn.double().reshape(count, n, -1)
        found = torch.tensor([numbers(parts[row], draws[row], laws[row], residual(row)) for row in range(count)])
        means, errors = found.mean(0).tolist(), (found.std(0) / count**0.5).tolist()
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(means, errors, strict=True)]
        if floor is not None and (found[:, 4] - floor).mean() < 2 * (found[:, 4] - floor).std() / count**0.5:
            cells[4] = f"**{cells[4]}**"
        print(f"| {name} | {noise:g} | {method} | {nfe} | {products} | {seconds} | {' | '.join(cells)} |", flush=True)
        return found[:, 4]

    second = torch.cat([law.sample(n, seed=2 * row + 1).double().flatten(1) for row, law in enumerate(laws)])
    floor = line("exact draws", second, "", "", "")
    sampler, model = create("samplers", arguments.sampler), ExactScore(target, create("sdes", arguments.sde))
    scale = arguments.scale / float(known.known.sum()) ** 0.5
    for method in arguments.method:
        observed, rounds = observation(method, condition, known.select(rows), target, scale)
        started = time.perf_counter()
        drawn = sample(model, ConditionedSampler(sampler, observed, rounds), count * n, batch_size=1200)
        products = getattr(observed, "products", [0])[0] / (count * n)
        line(method, drawn.x, f"{drawn.nfe:g}", f"{products:g}", f"{time.perf_counter() - started:.1f}", floor)


if __name__ == "__main__":
    main()
