"""Draws the picture of docs/conditions.md with the bundled MNIST model: test digits completed from their left half.

python docs/pictures/completion_picture.py docs/pictures/completions.png --root data
"""

import argparse

import torch
from condition_picture import N, save

from scoresde import ConditionedSampler, create, default_registry, sample
from scoresde_run.models import checkpoint

METHODS = [("replacement", "inpaint", 1), ("rounds=10", "inpaint", 10)]
METHODS += [("16 particles", "smcdiff[particles=16]", 1)] * 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--root", default="data", help="folder of MNIST")
    parser.add_argument("--sampler", default="pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=40]")
    options = parser.parse_args()
    model = checkpoint.find("mnist_vp", default_registry()).load(default_registry())
    x = create("datasets", f"mnist[root={options.root}]").load("test")[20 : 20 + N] / 127.5 - 1
    left = torch.zeros_like(x)
    left[..., :14] = x[..., :14]
    rows, labels = [x, left], ["digits", "known"]
    for seed, (label, condition, rounds) in enumerate(METHODS):
        observed = create("conditions", condition).observe(x)
        sampler = ConditionedSampler(create("samplers", options.sampler), observed, rounds)
        drawn = sample(model.score(), sampler, N, seed=seed)
        rows, labels = [*rows, drawn.x], [*labels, f"{label}, {drawn.nfe:g}"]
    save(options.out, rows, labels)


if __name__ == "__main__":
    main()
