"""Draws the pictures of docs/conditions.md and docs/likelihood.md, for mnist_mfa with its exact score.

python docs/pictures/condition_picture.py docs/pictures
python docs/pictures/condition_picture.py docs/pictures COLOURS.safetensors  colorization, RGB images

A target of RGB images can be made with, for example,
scoresde fit-target 'image_folder[path=photos,size=16]' --components 8 --factors 20 --iterations 15 --out ...
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from scoresde import ConditionedSampler, ExactScore, create, sample
from scoresde_plugins.numerics.encoding import decode, encode, interpolate, temper
from scoresde_run.results import picture

N = 8
STEPS = "pc[steps=150,grid=logsnr,predictor=ddim[eta=1]]"


def strip(axis, images, columns):
    """Show (N, 1, H, W) as one picture, row by row."""
    tiles = images[: len(images) // columns * columns].squeeze(1).unflatten(0, (-1, columns)).permute(0, 2, 1, 3)
    axis.imshow(tiles.flatten(2).flatten(0, 1).clamp(-1, 1), cmap="gray", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])


def save(path, rows, labels, height=1.02):
    """Save rows of digits with a label each as one PNG."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, height * len(rows)))
    for axis, row, label in zip(axes, rows, labels, strict=True):
        strip(axis, row, len(row))
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=72, bbox_inches="tight")
    plt.close(figure)
    reduce(path)


def beside(path, title, samples, real):
    """Save 80 samples beside as many test images as one PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, images, text in zip(axes, (samples, real), (title, "test images, in order"), strict=True):
        strip(axis, images[:80], 10)
        axis.set_title(text, fontsize=10)
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)
    reduce(path)


def reduce(path):
    """Save a picture with 32 greys, which are enough for digits, with a fifth of the bytes."""
    Image.open(path).convert("L").quantize(32).save(path, optimize=True)


def colours(folder, file):
    """Draw an RGB target, its grey images, and three colorizations of these, enlarged."""
    target, sde, zoom = create("targets", f"mfa[file={file}]"), create("sdes", "vp"), 3
    x = target.sample(N, seed=3)
    sampler = ConditionedSampler(create("samplers", STEPS), create("conditions", "colorize").observe(x), 5)
    drawn = [sample(ExactScore(target, sde), sampler, N, seed=seed).x for seed in range(3)]
    rows = [x, x.mean(1, keepdim=True).expand_as(x), *drawn]
    large = torch.cat(rows).repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    picture.write(picture.to_pixels(large), folder / "colorize.png", N)
    Image.open(folder / "colorize.png").quantize(128).save(folder / "colorize.png", optimize=True)


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    if len(sys.argv) > 2:
        colours(folder, sys.argv[2])
        return
    target = create("targets", "mnist_mfa")
    model, x = ExactScore(target, create("sdes", "vp")), target.sample(N, seed=5)

    def conditioned(text, rounds=1, data=x):
        condition = create("conditions", text)
        sampler = ConditionedSampler(create("samplers", STEPS), condition.observe(data), rounds)
        return condition, sample(model, sampler, N, seed=2).x

    rows, labels = [x], ["exact samples"]
    for text in ("inpaint[mask=left]", "inpaint[mask=box]", "inpaint[mask=random,share=0.1]"):
        condition, drawn = conditioned(text, rounds=5)
        observed = condition.observe(x)
        rows += [torch.where(observed.known, x, torch.zeros(())), drawn]
        labels += ["known", text.replace("inpaint", "")]
    for text in ("linear[factor=4]", "linear[operator=blur,width=2.0]"):
        condition, drawn = conditioned(text, rounds=5)
        measured = condition.measure(x)
        scale = 28 // measured.shape[-1]
        rows += [measured.repeat_interleave(scale, 2).repeat_interleave(scale, 3), drawn]
        labels += ["known", text]
    save(folder / "conditions.png", rows, labels)

    rows, labels = [], []
    for label in (0, 7, 13, 21):
        rows.append(conditioned(f"class[label={label},target=mnist_mfa]")[1])
        labels.append(f"component {label}")
    save(folder / "class_conditional.png", rows, labels)

    latent = encode(model, x)
    arc = interpolate(latent[:1], latent[1:2], torch.linspace(0, 1, N)).squeeze(1)
    rows = [x, decode(model, latent), decode(model, arc)]
    labels = ["exact samples", "encoded, decoded", "first to second"]
    for temperature in (0.5, 0.8):
        rows.append(decode(model, temper(latent, temperature)))
        labels.append(f"temperature {temperature}")
    save(folder / "encoding.png", rows, labels)


if __name__ == "__main__":
    main()
