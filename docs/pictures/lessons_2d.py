"""Learned scores against exact ones, at one noise scale and at many: the tables and picture of docs/lessons_2d.md.

scoresde train lesson_one_scale --out runs/one_scale
scoresde train lesson_many_scales --out runs/many_scales
python docs/pictures/lessons_2d.py runs/one_scale runs/many_scales --out lessons
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from scoresde_core import ExactScore, Level, create, default_registry, sample
from scoresde_run.models import checkpoint

BOX = 5.0
LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
SAMPLER = "pc[predictor=none,corrector=ald[snr=0.5,n_steps=20],steps=50]"


class Learned:
    """A trained model with the target that its data came from."""

    def __init__(self, folder):
        registry = default_registry()
        self.model = checkpoint.read(folder).load(registry)
        self.target = registry.create("datasets", self.model.config.data.dataset).target

    def level(self, sigma):
        """The level of this model's SDE at a noise scale."""
        return Level(float(self.model.sde.time_at(torch.tensor(sigma, dtype=torch.float64).log())), 1.0, sigma)

    @torch.no_grad()
    def error(self, x, sigma):
        """Root mean square error of the learned score over ``x``, relative to the exact score's size there."""
        level = self.level(sigma)
        learned, exact = self.model.score().score(x, level), self.target.score(x, level)
        return float(((learned - exact).square().sum(1).mean() / exact.square().sum(1).mean()).sqrt())


def noisy(target, sigma, n, seed=1):
    """Draws of the target with noise."""
    return target.sample(n, seed) + sigma * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def anywhere(n, seed=2):
    """Points spread evenly over the box."""
    return BOX * (2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="the run of lesson_one_scale")
    parser.add_argument("many", type=Path, help="the run of lesson_many_scales")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the picture (default: here)")
    parser.add_argument("--n", type=int, default=4000, help="samples a row")
    options = parser.parse_args()
    runs = {"one scale": Learned(options.one), "many scales": Learned(options.many)}
    target = runs["many scales"].target
    print("relative error of the learned score    where the noisy data are    anywhere in the box")
    for (name, learned), levels in zip(runs.items(), (LEVELS[:1], LEVELS), strict=True):
        for sigma in levels:
            errors = [learned.error(x, sigma) for x in (noisy(learned.target, sigma, 20_000), anywhere(20_000))]
            print(f"{name:12} sigma {sigma:<5} {errors[0]:>39.3f} {errors[1]:>22.3f}")
    means, samples = target.mixture.means.float(), {"the truth": target.sample(1000, 4)}
    weights = "  ".join(f"{weight:.3f}" for weight in target.modes().tolist())
    print(f"\nshare of the samples at each mode      {weights}  (the truth); last: at none")
    # at one scale from points anywhere, at many from the prior of the largest
    for (run, learned), latent in zip(runs.items(), (anywhere(options.n, 3), None), strict=True):
        exact = ExactScore(learned.target, learned.model.sde)
        for name, score in {"exact": exact, "learned": learned.model.score()}.items():
            name = f"{run}, {name} score"
            samples[name] = x = sample(score, create("samplers", SAMPLER), options.n, latent=latent).x
            distance, nearest = torch.cdist(x, means).min(1)
            near = distance < 5 * target.std
            shares = [*(nearest[near].bincount(minlength=3) / len(x)).tolist(), float((~near).float().mean())]
            print(f"{name:38} {'  '.join(f'{share:.3f}' for share in shares)}")
    figure, axes = plt.subplots(1, len(samples), figsize=(12, 2.7), layout="constrained")
    for axis, (name, x) in zip(axes, samples.items(), strict=True):
        axis.plot(*x[:1000].T.numpy(), ".", markersize=2, color="tab:blue", alpha=0.6)
        axis.set(title=name, xlim=(-BOX, BOX), ylim=(-BOX, BOX), xticks=[], yticks=[], aspect="equal")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "lessons_2d_samples.png", dpi=80)


if __name__ == "__main__":
    main()
