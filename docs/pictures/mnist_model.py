"""Makes the pictures and numbers of docs/mnist_model.md: digits of the bundled model beside real ones.

python docs/pictures/mnist_model.py mnist_vp --dataset 'mnist[root=data]' \\
    --metrics RUN/metrics.jsonl --out docs/pictures
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from condition_picture import beside, save

from scoresde_core import create, default_registry, sample
from scoresde_core.loss import Draws
from scoresde_plugins.evaluators import Origin
from scoresde_run.data.evidence import Evidence, Reference
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_loss

SAMPLERS = {"ddim": "pc[predictor=ddim]", "dpmpp_2m": "pc[predictor=dpmpp_2m,grid=logsnr]"}
STEPS = (10, 20, 50, 100)


def draw(model, sampler, n, seed=0):
    found = sample(model.score(), create("samplers", sampler), n, seed=seed)
    return found, model.units.decode(found.x).clamp(-1, 1)


def with_steps(sampler, steps):
    return sampler.replace("pc[", f"pc[steps={steps},")


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


def distances(model, dataset, n):
    """Compare samples and real digits with other real digits, and with the exact target fitted to digits."""
    truths = {"digits": Origin(dataset, "test").reference(n, 0, "cpu")}
    truths["mnist_mfa"] = Reference(create("targets", "mnist_mfa"), n)
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
    dataset = create("datasets", arguments.dataset)
    real = dataset.load("test").float() / 127.5 - 1
    if arguments.metrics:
        loss_curve(arguments.metrics, model.config.training.batch_size, arguments.out / "mnist_model_loss.png")
    _, drawn = draw(model, with_steps(SAMPLERS["dpmpp_2m"], 20), 80)
    beside(arguments.out / "mnist_model.png", "samples, dpmpp_2m in 20 steps, seed 0, in order", drawn, real)
    rows = {f"{name}, {n}": draw(model, with_steps(text, n), 14)[1] for name, text in SAMPLERS.items() for n in STEPS}
    save(arguments.out / "mnist_model_steps.png", list(rows.values()), list(rows), height=0.68)
    if arguments.test:
        print(f"test loss over {arguments.test} images: {loss_over(model, real[: arguments.test]):.5f}")
    if arguments.samples:
        distances(model, dataset, arguments.samples)


if __name__ == "__main__":
    main()
