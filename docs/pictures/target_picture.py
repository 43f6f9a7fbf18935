"""Draws the picture in docs/targets.md: exact samples of a fitted target beside test images.

python docs/pictures/target_picture.py mnist_mfa 'mnist[root=data]' docs/pictures/mnist_mfa.png
"""

import sys

from condition_picture import beside

from scoresde_core import create

if __name__ == "__main__":
    target, dataset, out = sys.argv[1:]
    real = create("datasets", dataset).load("test")[:80].float() / 127.5 - 1
    beside(out, "exact samples, seed 0, in order", create("targets", target).sample(80, seed=0), real)
