"""The picture of docs/processes.md: paths of each bundled process, from the data on the left.

python docs/pictures/processes.py docs/pictures/process_paths.png
"""

import sys

import matplotlib.pyplot as plt
import torch
from scoresde_core import create, default_registry

PATHS, TIMES, Y = 8, 301, 1.0


def paths(sde, x, generator):
    """Times, and states (TIMES, n, ...) of exact transitions from t = 0; for any drift, of Euler steps."""
    times = torch.linspace(0, sde.t_max, TIMES, dtype=torch.float64)
    states, h = [x], float(times[1])
    if sde.form != "nonlinear":
        moves = sde.transition(times.flip(0))
        scales, stds = moves.scale.flip(0), moves.std.flip(0)
    for k, t in enumerate(times[:-1]):
        z, x = torch.randn(x.shape, generator=generator, dtype=x.dtype), states[-1]
        if sde.form == "nonlinear":
            states.append(x + h * sde.drift(x, t) + h**0.5 * sde.diffusion(t) * z)
        elif sde.form == "blocks":
            states.append(x @ scales[k].T + z @ stds[k].T)
        else:
            states.append(scales[k] * x + stds[k] * z)
    return times, torch.stack(states)


def blurred(axis, sde):
    """A digit under blur and noise."""
    digit = create("targets", "mnist_mfa").sample(1, seed=3)
    eps = torch.randn(digit.shape, generator=torch.Generator().manual_seed(0))
    seen = []
    for t in (0.02, 0.15, 0.3, 0.6):
        level = sde.level_at(t, digit)
        mean = level.alpha * sde.frame.lift(digit)
        seen.append(torch.cat([sde.frame.drop(c)[0, 0] for c in (mean, mean + level.sigma * eps)]))
    axis.imshow(torch.cat(seen, 1), cmap="gray", vmin=-1, vmax=1)
    axis.set_xticks([14, 42, 70, 98], ["0.02", "0.15", "0.3", "0.6"])
    axis.set_yticks([14, 42], ["mean", "state"])


def path(axis, sde):
    """Paths of one process from data at -1 and 1."""
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(PATHS // 2).unsqueeze(1)
    names = {"blocks": ["position", "velocity"], "diagonal": ["channel 1", "channel 2"]}.get(sde.form)
    if names:  # two variables or channels of one path
        x = torch.tensor([[1.0, 0.0 if sde.form == "blocks" else -1.0]], dtype=torch.float64)
    t, states = paths(sde, x, torch.Generator().manual_seed(1))
    if sde.needs:
        states = states + sde.centre(t).reshape(-1, 1, 1) * Y
        for sign in (-1, 1):
            axis.plot(t, sde.alpha(t) * sign + sde.centre(t) * Y, "k--", lw=1)
        axis.plot(sde.t_max, Y, "k*", ms=9)
    if float(states.abs().max()) > 20:  # over sqrt(1 + sigma^2), or the data could not be seen
        states = states / (1 + sde.sigma(t).square()).sqrt().reshape(-1, 1, 1)
        axis.set_ylabel("x / sqrt(1 + σ²)", fontsize=8)
    if names:
        for column, label in enumerate(names):
            axis.plot(t, states[:, 0, column], lw=0.8, label=label)
        axis.legend(fontsize=7)
    else:
        axis.plot(t, states[:, :, 0], lw=0.8)


names = [entry.row.name for entry in default_registry().entries("sdes")]
figure, axes = plt.subplots(4, 4, figsize=(12, 10), layout="constrained")
for axis, name in zip(axes.flat, names, strict=True):
    draw, text = (blurred, "blurring[size=28]") if name == "blurring" else (path, name)
    draw(axis, create("sdes", text))
    axis.set_title(name, fontsize=10)
figure.savefig(sys.argv[1], dpi=70)
