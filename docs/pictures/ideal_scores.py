"""Measures how far a model is from the optimal score of its training data: the tables of docs/ideal_scores.md.

    python docs/pictures/ideal_scores.py --dataset 'mnist[root=data]'

Training and test digits are noised to x = alpha x_0 + sigma eps at ten ratios sigma / alpha, and denoised by the model,
by the ideal score of all training digits, by the exact score of ``mnist_mfa``, and by the optimal local scores of the
first training digits (``--count``), in which a pixel sees a patch at its own position. Values are means over digits and
pixels, on [-1, 1].
"""

import argparse

import torch
from scoresde import ExactScore, create, default_registry
from scoresde_run.models import checkpoint

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)  # of sigma / alpha
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--checkpoint", default="mnist_vp")
parser.add_argument("--dataset", default="mnist")
parser.add_argument("--digits", type=int, default=64, help="digits of each split")
parser.add_argument("--count", type=int, default=10_000, help="training digits of the local scores")
parser.add_argument("--patches", type=int, nargs="+", default=[5, 11, 17])
parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
options, registry = parser.parse_args(), default_registry()
model = checkpoint.find(options.checkpoint, registry).load(registry).score()
data = create("datasets", options.dataset)
laws = {"ideal": create("targets", "empirical", dataset=data), "mnist_mfa": create("targets", "mnist_mfa")}
for patch in options.patches:
    local = {"patch": patch, "position": "same", "count": options.count}
    laws[f"patches of {patch}"] = create("targets", "empirical", dataset=data, **local)
of_laws = {name: ExactScore(law, model.sde) for name, law in laws.items()}
rows = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
clean = {"training": data.load("train")[rows[: options.digits]], "test": data.load("test")[: options.digits]}
gaps = [f"model - {name}, {split}" for split in clean for name in of_laws]
errors = [f"error of {name}, {split}" for split in clean for name in ("model", *list(of_laws)[:2])]


def table(title, columns, found):
    print(f"\n{title}\n| sigma / alpha | {' | '.join(columns)} |\n|---:|{'---:|' * len(columns)}")
    for ratio, row in found.items():
        print(f"| {ratio:g} | {' | '.join(f'{row[column]:.2g}' for column in columns)} |", flush=True)


found = {}
for ratio in options.ratios:
    t = float(model.sde.time_at(torch.tensor(ratio, dtype=torch.float64).log()))
    level, found[ratio] = model.sde.float_level(t), {}
    for split, digits in clean.items():
        x0 = digits.float() / 127.5 - 1
        x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            mean = {"model": model.denoised(x, level)} | {k: law.denoised(x, level) for k, law in of_laws.items()}
        for name, state in mean.items():
            found[ratio][f"model - {name}, {split}"] = float((state - mean["model"]).square().mean())
            found[ratio][f"error of {name}, {split}"] = float((state - x0).square().mean())
    print(f"{ratio:g}: done", flush=True)
table("Mean squared difference of denoised states", gaps, found)
table("Mean squared error of denoised states", errors, found)
