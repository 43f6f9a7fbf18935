"""Makes the pictures and numbers of docs/mnist_model.md: digits of the bundled model beside real ones.

python benchmarks/studies/truth/mnist_model.py mnist_vp --dataset 'mnist[root=data]' \\
    --metrics RUN/metrics.jsonl --out docs/pictures
"""

import argparse
import json
from pathlib import Path

import matplotlib
import torch
from PIL import Image

from scoresde_core import create, default_registry, sample
from scoresde_core.loss import Draws
from scoresde_run.data.evidence import Evidence, Reference
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_loss

matplotlib.use("agg")
import matplotlib.pyplot as plt

SAMPLERS = {"ddim": "pc[predictor=ddim]", "dpmpp_2m": "pc[predictor=dpmpp_2m,grid=logsnr]"}
STEPS = (10, 20, 50, 100)


class Digits:
    """Real images in place of an exact target, for evaluators that compare sets."""

    shape = (1, 28, 28)

    def __init__(self, images):
        self.images = images

    def sample(self, n, seed=0):
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        return self.images[order[:n]]


def draw(model, sampler, n, seed=0):
    found = sample(model.score(), create("samplers", sampler), n, seed=seed)
    return found, model.units.decode(found.x).clamp(-1, 1)


def with_steps(sampler, steps):
    return sampler.replace("pc[", f"pc[steps={steps},")


def tiles(images, columns):
    """Arrange (N, 1, H, W) as one picture, row by row."""
    rows = images[: len(images) // columns * columns].squeeze(1).reshape(-1, columns, 28, 28)
    return rows.permute(0, 2, 1, 3).reshape(len(rows) * 28, columns * 28).clamp(-1, 1)


def save(figure, path):
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)
    # 32 greys are enough for digits, with a fifth of the bytes.
    Image.open(path).convert("L").quantize(32).save(path, optimize=True)


def show(axis, images, columns, title="", label=""):
    axis.imshow(tiles(images, columns), cmap="gray", vmin=-1, vmax=1)
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def beside_real_digits(model, real, path):
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    _, drawn = draw(model, with_steps(SAMPLERS["dpmpp_2m"], 20), 80)
    show(axes[0], drawn, 10, "samples, dpmpp_2m in 20 steps, seed 0, in order")
    show(axes[1], real[:80], 10, "test images, in order")
    save(figure, path)


def few_and_many_steps(model, path):
    rows = {f"{name}, {n}": draw(model, with_steps(text, n), 14)[1] for name, text in SAMPLERS.items() for n in STEPS}
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 0.68 * len(rows)))
    for axis, (label, drawn) in zip(axes, rows.items(), strict=True):
        show(axis, drawn, 14, label=label)
    figure.tight_layout(pad=0.2)
    save(figure, path)


def loss_curve(metrics, batch_size, path):
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for name, label, style in (("loss", "training", "-"), ("evaluation_loss", "averaged weights, test images", "o-")):
        points = [(row["step"] * batch_size / 1000, row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
    axis.set(xlabel="thousand images", ylabel="loss", yscale="log", ylim=(0.018, 0.1))
    axis.set_yticks([0.02, 0.03, 0.05, 0.1], ["0.02", "0.03", "0.05", "0.1"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)


@torch.no_grad()
def loss_over(model, images, size=500):
    """The training loss over all test images, each with one time and one noise."""
    loss, sums = plan_loss(model.plan, default_registry()), 0.0
    for number, x in enumerate(images.split(size)):
        sums += float(loss.per_sample(model.score(), x, Draws(0, f"test {number}", len(x))).sum())
    return sums / len(images)


def distances(model, real, n):
    """Compare samples and real digits with other real digits, and with the exact target fitted to digits."""
    truths = {"digits": Reference(Digits(real), n), "mnist_mfa": Reference(create("targets", "mnist_mfa"), n)}
    kinds = [("digits", "energy_distance"), ("digits", "sliced_wasserstein"), ("mnist_mfa", "mode_weights")]

    def row(label, nfe, x):
        cells = []
        for truth, name in kinds:
            (metric,) = create("evaluators", name).evaluate(Evidence(x, reference=truths[truth]))
            cells.append(f"{metric.value:.3f} ± {metric.stderr:.3f}")
        return [label, nfe, *cells]

    digits = truths["digits"].exact(1)  # at random: the first half of the test set has neater writers
    rows = [row("real digits", "", digits)]
    for name, text in SAMPLERS.items():
        for steps in STEPS[:3]:
            drawn, x = draw(model, with_steps(text, steps), n, seed=1)
            rows.append(row(f"{name}, {steps} steps", f"{drawn.nfe:g}", x))
    print("| | NFE | energy distance | sliced W2 | modes of mnist_mfa |\n|---|---:|---:|---:|---:|")
    print("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
    (floor,) = create("evaluators", "mode_weights").evaluate(Evidence(digits, reference=truths["mnist_mfa"]))
    print(f"exact samples of mnist_mfa: {floor.floor:.3f} ± {floor.floor_stderr:.3f} of their modes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--metrics", type=Path, help="metrics.jsonl of the run, for the loss curve")
    parser.add_argument("--samples", type=int, default=0, help="samples for the table of distances; 0: no table")
    parser.add_argument("--test", type=int, default=0, help="test images for the test loss; 0: none")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = checkpoint.find(arguments.checkpoint, default_registry()).load(default_registry())
    real = create("datasets", arguments.dataset).load("test").float() / 127.5 - 1
    if arguments.metrics:
        loss_curve(arguments.metrics, model.config.training.batch_size, arguments.out / "mnist_model_loss.png")
    beside_real_digits(model, real, arguments.out / "mnist_model.png")
    few_and_many_steps(model, arguments.out / "mnist_model_steps.png")
    if arguments.test:
        print(f"test loss over {arguments.test} images: {loss_over(model, real[: arguments.test]):.5f}")
    if arguments.samples:
        distances(model, real, arguments.samples)


if __name__ == "__main__":
    main()
