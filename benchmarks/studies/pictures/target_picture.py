"""Draws the picture in docs/targets.md: exact samples of a fitted target beside test images.

python benchmarks/studies/pictures/target_picture.py mnist_mfa 'mnist[root=data]' docs/pictures/mnist_mfa.png
"""

import argparse

import matplotlib
import torch

from scoresde_core import create

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROWS, COLUMNS = 8, 10


def mosaic(images):
    """Arrange (N, 1, H, W) as one picture, row by row."""
    _, _, height, width = images.shape
    tiles = images.reshape(ROWS, COLUMNS, height, width).permute(0, 2, 1, 3)
    return tiles.reshape(ROWS * height, COLUMNS * width).clamp(-1, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("dataset")
    parser.add_argument("out")
    arguments = parser.parse_args()
    n = ROWS * COLUMNS
    samples = create("targets", arguments.target).sample(n, seed=0)
    real = create("datasets", arguments.dataset).load("test")[:n].to(torch.float32) / 127.5 - 1
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, images, title in zip(
        axes, (samples, real), ("exact samples, seed 0, in order", "test images, in order"), strict=True
    ):
        axis.imshow(mosaic(images), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.savefig(arguments.out, dpi=100)


if __name__ == "__main__":
    main()
