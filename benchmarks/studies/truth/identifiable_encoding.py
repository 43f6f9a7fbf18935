"""Compares the encodings of two networks of different size and seed (arXiv:2011.13456, Section 4.3).

python benchmarks/studies/truth/identifiable_encoding.py WORK docs/pictures [KEY=VALUE ...]

Trains the preset moons_vp twice in the folder WORK (unless the runs exist), encodes the same 2000 events with both and
with the exact score, and prints the correlation of the codes and their root mean square difference.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from scoresde_run.commands.shell import main as scoresde

TARGET = "mixture2d[layout=moons,components=16,radius=2.0,std=0.3]"
NETWORKS = {
    "A": ["training.seed=1"],
    "B": ["training.seed=2", "model.network.width=96", "model.network.depth=4", "model.network.embedding=fourier"],
}
EVENTS = 2000


def run(*arguments):
    if code := scoresde([str(argument) for argument in arguments]):
        sys.exit(code)


def codes(folder, *source):
    if not folder.exists():
        data = f"exact[target={TARGET}]"
        run("encode", *source, "--dataset", data, "--images", EVENTS, "--batch-size", EVENTS, "--out", folder)
    with np.load(folder / "latents.npz") as file:
        return file["latents"], file["events"]


def compare(name, first, second):
    x, y = (np.corrcoef(first[:, k], second[:, k])[0, 1] for k in range(2))
    difference = np.sqrt(np.square(first - second).mean())
    print(
        f"{name}: correlation of the coordinates {x:.4f}, {y:.4f}; root mean square difference {difference:.4f}, ",
        end="",
    )
    print(f"of codes with standard deviation {first.std():.3f}")


def draw(path, events, latents):
    """Plot the events and every set of codes, coloured by the angle of the event."""
    figure, axes = plt.subplots(1, 1 + len(latents), figsize=(2.6 * (1 + len(latents)), 2.7))
    colour = np.arctan2(events[:, 1], events[:, 0])
    for axis, (name, points) in zip(axes, {"data": events, **latents}.items(), strict=True):
        axis.scatter(*points.T, c=colour, cmap="hsv", s=2, linewidths=0)
        axis.set_title(name, fontsize=9)
        axis.set(aspect="equal", xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main():
    work, pictures, *changes = sys.argv[1:]
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    latents = {}
    for name, own in NETWORKS.items():
        run("train", "moons_vp", *own, *changes, "--out", work / name)
        latents[f"network {name}"], events = codes(work / f"codes_{name}", "--checkpoint", work / name)
    latents["exact score"], _ = codes(work / "codes_exact", "--target", TARGET)
    a, b, exact = latents.values()
    compare("A and B", a, b)
    compare("A and the exact score", a, exact)
    compare("B and the exact score", b, exact)
    compare("A and B, other events", a, np.roll(b, 1, axis=0))
    draw(Path(pictures) / "identifiable.png", events, latents)


if __name__ == "__main__":
    main()
