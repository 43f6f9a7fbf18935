"""Measures digits restored from noise: the table of docs/known.md, and with --out its picture.

    python docs/pictures/restored_digits.py runs/denoise --dataset 'mnist[root=data]' --out restored.png

Peak signal to noise ratio, 10 log10(4 / mean square error) on [-1, 1], of held-out digits and of draws of the mixture
``mnist_mfa``, from y = x + noise z: one sample of the model, the mean of several, the mean of the exact posterior under
the mixture, and one of its samples, drawn by the same sampler from the exact score. Values are means over digits.
"""

import argparse
from pathlib import Path

import torch
from scoresde import ExactScore, Level, create, default_registry, sample
from scoresde_run.models import checkpoint
from scoresde_run.results.picture import draw


def psnr(x, clean):
    """Mean over digits and its standard error, in dB."""
    each = 10 * (4 / (x - clean).double().square().flatten(1).mean(1)).log10()
    return f"{each.mean():.2f} ± {each.std() / len(each) ** 0.5:.2f}"


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", help="folder of a model of the preset mnist_ouve_denoise")
parser.add_argument("--dataset", default="mnist", help="data set of held-out digits")
parser.add_argument("--digits", type=int, default=128)
parser.add_argument("--each", type=int, default=8, help="samples whose mean is taken")
parser.add_argument("--noise", type=float, default=0.5)
parser.add_argument("--out", type=Path, help="picture of digits, noisy digits, samples, means and posterior means")
options, registry = parser.parse_args(), default_registry()
n, noise = options.digits, options.noise
model = checkpoint.find(options.checkpoint, registry).load(registry)
sampler, score = model.plan.sampler, model.score()
observed = create("targets", f"observed[of=mnist_mfa,noise={noise}]")
degraded = create("datasets", f"degraded[of={options.dataset},noise={noise}]")
drawn = observed.sample(n, seed=5)
of_digits = degraded.load("test")[:n].float() / 127.5 - 1, degraded.known("test")["y"][:n]
columns = ("y", "one sample", f"mean of {options.each}", "exact posterior: mean", "exact posterior: one sample")
print(f"| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
for name, (clean, y) in {"test digits": of_digits, "mnist_mfa": (drawn, observed.observe(drawn, 6))}.items():
    told, exact = score.given(y=y), ExactScore(observed, model.sde.given(y=y))
    found = torch.stack([sample(told, sampler, n, seed=seed).x for seed in range(options.each)])
    mean = y + noise**2 * observed.mixture.score(y.double(), Level(0.0, 1.0, noise)).float()
    row = (y, found[0], found.mean(0), mean, sample(exact, sampler, n, seed=0).x)
    print(f"| {name} | {' | '.join(psnr(each, clean) for each in row)} |", flush=True)
    if options.out and name == "test digits":
        rows = torch.cat([part[:16] for part in (clean, *row[:4])])
        draw(options.out, model.units, rows, columns=16, count=80)
