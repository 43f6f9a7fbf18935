"""Draws the pictures of docs/lessons_mnist.md: samples of runs of ``scoresde train`` side by side.

python benchmarks/studies/pictures/mnist_lessons.py docs/pictures/lesson.png 'predicts v=v/samples/step_1000.png' ...
"""

import sys

import matplotlib
from condition_picture import reduce
from PIL import Image

matplotlib.use("agg")
import matplotlib.pyplot as plt


def main():
    out, *named = sys.argv[1:]
    figure, axes = plt.subplots(1, len(named), figsize=(3.1 * len(named), 3.4), layout="constrained")
    for axis, text in zip(axes, named, strict=True):
        title, _, path = text.rpartition("=")
        axis.imshow(Image.open(path), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.savefig(out, dpi=80)
    reduce(out)


if __name__ == "__main__":
    main()
