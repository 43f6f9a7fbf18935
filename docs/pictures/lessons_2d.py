"""Learned scores against exact ones, at one noise scale and at many: the tables and pictures of docs/lessons_2d.md.

scoresde train lesson_one_scale --out runs/one_scale
scoresde train lesson_many_scales --out runs/many_scales
python docs/pictures/lessons_2d.py runs/one_scale runs/many_scales --out lessons
"""

import argparse
from pathlib import Path

import matplotlib
import torch

from scoresde_core import ExactScore, Level, create, default_registry, sample
from scoresde_run.models import checkpoint

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm

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
        t = float(self.model.sde.time_at(torch.tensor(sigma, dtype=torch.float64).log()))
        return Level(t, 1.0, sigma)

    @torch.no_grad()
    def scores(self, x, sigma):
        """The learned score and the exact one at ``x``."""
        level = self.level(sigma)
        return self.model.score().score(x, level), self.target.score(x, level)

    def error(self, x, sigma):
        """Root mean square error over ``x``, relative to the exact score's size there."""
        learned, exact = self.scores(x, sigma)
        return float(((learned - exact).square().sum(1).mean() / exact.square().sum(1).mean()).sqrt())


def noisy(target, sigma, n, seed=1):
    """Draws of the target with noise."""
    return target.sample(n, seed) + sigma * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def anywhere(n, seed=2):
    """Points spread evenly over the box."""
    return BOX * (2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) - 1)


def score_table(one, many):
    print("relative error of the learned score    where the noisy data are    anywhere in the box")
    for name, learned, levels in (("one scale", one, LEVELS[:1]), ("many scales", many, LEVELS)):
        for sigma in levels:
            here, there = (
                learned.error(noisy(learned.target, sigma, 20_000), sigma),
                learned.error(anywhere(20_000), sigma),
            )
            print(f"{name:12} sigma {sigma:<5} {here:>39.3f} {there:>22.3f}")


def drawn(one, many, n):
    """Samples of 1000 Langevin steps each: at one scale from points anywhere, at many from the prior of the largest."""
    sampler, found = create("samplers", SAMPLER), {}
    for name, learned, latent in (("one scale", one, anywhere(n, 3)), ("many scales", many, None)):
        for which, score in (
            ("exact", ExactScore(learned.target, learned.model.sde)),
            ("learned", learned.model.score()),
        ):
            found[f"{name}, {which} score"] = sample(score, sampler, n, latent=latent).x
    return found


def sample_table(target, samples):
    means, weights = target.mixture.means.float(), target.modes()
    print(
        f"\nshare of the samples at each mode      {'  '.join(f'{w:.3f}' for w in weights.tolist())}  (the truth)   off"
    )
    for name, x in samples.items():
        distance, nearest = torch.cdist(x, means).min(1)
        near = distance < 5 * target.std
        shares = nearest[near].bincount(minlength=len(means)) / len(x)
        print(f"{name:38} {'  '.join(f'{s:.3f}' for s in shares.tolist())} {float((~near).float().mean()):>18.3f}")


def field_picture(one, many, path):
    cells = (("one scale", one, 0.1), ("many scales", many, 0.1), ("many scales", many, 3.0))
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.6), layout="constrained")
    arrows = torch.cartesian_prod(*[torch.linspace(-BOX, BOX, 17)] * 2)
    pixels = torch.cartesian_prod(*[torch.linspace(-BOX, BOX, 121)] * 2)
    for (name, learned, sigma), field, error in zip(cells, *axes, strict=True):
        points = noisy(learned.target, sigma, 400)
        field.plot(*points.T.numpy(), ".", color="0.75", markersize=2)
        for scores, color in zip(learned.scores(arrows, sigma)[::-1], ("black", "tab:red"), strict=True):
            unit = scores / scores.norm(dim=1, keepdim=True)
            field.quiver(*arrows.T.numpy(), *unit.T.numpy(), color=color, width=0.004, scale=24, label=color)
        field.set_title(f"{name}, sigma = {sigma:g}", fontsize=10)
        wrong, exact = learned.scores(pixels, sigma)
        relative = ((wrong - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-3)).reshape(121, 121).T.numpy()
        shown = error.imshow(
            relative,
            norm=LogNorm(0.01, 3),
            extent=(-BOX, BOX) * 2,
            origin="lower",
            cmap="magma",
            interpolation="bilinear",
        )
        error.plot(*points.T.numpy(), ".", color="white", markersize=1, alpha=0.5)
        for axis in (field, error):
            axis.set(xlim=(-BOX, BOX), ylim=(-BOX, BOX), xticks=[], yticks=[], aspect="equal")
    axes[0, 0].set_ylabel("direction: exact black, learned red", fontsize=9)
    axes[1, 0].set_ylabel("relative error of the learned score", fontsize=9)
    figure.colorbar(shown, ax=axes[1], shrink=0.9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def sample_picture(target, samples, path):
    figure, axes = plt.subplots(1, 1 + len(samples), figsize=(12, 2.7), layout="constrained")
    for axis, (name, x) in zip(axes, {"the truth": target.sample(1000, 4), **samples}.items(), strict=True):
        axis.plot(*x[:1000].T.numpy(), ".", markersize=2, color="tab:blue", alpha=0.6)
        axis.set(xlim=(-BOX, BOX), ylim=(-BOX, BOX), xticks=[], yticks=[], aspect="equal")
        axis.set_title(name, fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="the run of lesson_one_scale")
    parser.add_argument("many", type=Path, help="the run of lesson_many_scales")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the two pictures (default: here)")
    parser.add_argument("--n", type=int, default=4000, help="samples a row")
    options = parser.parse_args()
    one, many = Learned(options.one), Learned(options.many)
    options.out.mkdir(parents=True, exist_ok=True)
    score_table(one, many)
    samples = drawn(one, many, options.n)
    sample_table(many.target, samples)
    field_picture(one, many, options.out / "lessons_2d_scores.png")
    sample_picture(many.target, samples, options.out / "lessons_2d_samples.png")


if __name__ == "__main__":
    main()
