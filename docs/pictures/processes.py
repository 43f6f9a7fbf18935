"""The pictures of docs/processes.md: the class of processes, and paths of each bundled one, from the data on the left.

python docs/pictures/processes.py --out docs/pictures
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from scoresde_core import create, default_registry

PATHS, TIMES, Y = 8, 301, 1.0
SDES = "vp ve subvp linear_ve\nedm cosine table\nrectified_flow trigflow\nwith y: ouve sbve ir_sde"
BOXES = (  # (left, bottom, width, height, colour, title, text)
    (0.0, 0.0, 10.0, 4.5, "#eef2f7", "Process", ""),
    (0.2, 0.2, 7.4, 3.8, "#d9e4f0", "linear process", "x_t = A(t) x_0 + m(t) y + noise of covariance Σ(t)"),
    (0.4, 0.4, 1.7, 2.5, "#c3d7e8", "matrices", "A, Σ: k x k\n\ncld"),
    (2.25, 0.4, 5.2, 2.5, "#aecbe1", "in a frame: c = Q (x - m(t) y), c_t = α(t) c_0 + σ(t) ε", ""),
    (2.4, 0.55, 2.2, 1.75, "#98bfda", "α, σ of each entry", "\nblurring\nper_channel"),
    (4.75, 0.55, 2.55, 1.75, "#82b2d2", "one α and σ", SDES),
    (7.8, 0.4, 2.0, 2.5, "#eef2f7", "any drift", "dx = f(x, t) dt\n       + G(t) dw\n\ndouble_well"),
)


def class_of_processes():
    """Each class inside the wider one, with its formula and the bundled processes."""
    figure, axis = plt.subplots(figsize=(10, 4.6), layout="constrained")
    for left, bottom, width, height, colour, title, text in BOXES:
        axis.add_patch(plt.Rectangle((left, bottom), width, height, facecolor=colour, edgecolor="0.4"))
        axis.text(left + 0.12, bottom + height - 0.12, title, weight="bold", va="top", fontsize=10)
        axis.text(left + 0.12, bottom + height - 0.48, text, va="top", fontsize=9, linespacing=1.4)
    axis.set(xlim=(-0.05, 10.05), ylim=(-0.05, 4.55))
    axis.axis("off")
    return figure


def walk(sde, x, generator):
    """States (TIMES, n, ...) of exact transitions from t = 0, and their times."""
    times = torch.linspace(0, sde.t_max, TIMES, dtype=torch.float64).flip(0)
    moves = sde.transition(times)
    states = [x]
    for scale, std in zip(moves.scale.flip(0), moves.std.flip(0), strict=True):
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        states.append(x @ scale.T + z @ std.T if scale.ndim == 2 else scale * x + std * z)
        x = states[-1]
    return times.flip(0), torch.stack(states)


def simulated(process, x, generator):
    """The same for any drift, by Euler steps."""
    times = torch.linspace(0, process.t_max, TIMES, dtype=torch.float64)
    states, h = [x], float(times[1])
    for t in times[:-1]:
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        states.append(states[-1] + h * process.drift(states[-1], t) + h**0.5 * process.diffusion(t) * z)
    return times, torch.stack(states)


def blurred(axis):
    """A digit under blur and noise."""
    sde, digit = create("sdes", "blurring[size=28]"), create("targets", "mnist_mfa").sample(1, seed=3)
    eps = torch.randn(digit.shape, generator=torch.Generator().manual_seed(0))
    seen = []
    for t in (0.02, 0.15, 0.3, 0.6):
        level = sde.level_at(t, digit)
        mean = level.alpha * sde.frame.lift(digit)
        seen.append(torch.cat([sde.frame.drop(c)[0, 0] for c in (mean, mean + level.sigma * eps)]))
    axis.imshow(torch.cat(seen, 1), cmap="gray", vmin=-1, vmax=1)
    axis.set_xticks([14, 42, 70, 98], ["0.02", "0.15", "0.3", "0.6"])
    axis.set_yticks([14, 42], ["mean", "state"])


def path(axis, name):
    """Paths of one process from data at -1 and 1."""
    sde, generator = create("sdes", name), torch.Generator().manual_seed(1)
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(PATHS // 2).unsqueeze(1)
    if sde.form == "nonlinear":
        t, states = simulated(sde, x, generator)
    elif sde.form == "scalar":
        t, states = walk(sde, x, generator)
    else:  # two variables or channels of one path
        start = torch.tensor([[1.0, 0.0 if sde.form == "blocks" else -1.0]], dtype=torch.float64)
        t, states = walk(sde, start, generator)
    if sde.needs:
        states = states + sde.centre(t).reshape(-1, 1, 1) * Y
        for sign in (-1, 1):
            axis.plot(t, sde.alpha(t) * sign + sde.centre(t) * Y, "k--", lw=1)
        axis.plot(sde.t_max, Y, "k*", ms=9)
    names = {"blocks": ["position", "velocity"], "diagonal": ["channel 1", "channel 2"]}.get(sde.form)
    if float(states.abs().max()) > 20:  # over sqrt(1 + sigma^2), or the data could not be seen
        states = states / (1 + sde.sigma(t).square()).sqrt().reshape(-1, 1, 1)
        axis.set_ylabel("x / sqrt(1 + σ²)", fontsize=8)
    if names:
        for column, label in enumerate(names):
            axis.plot(t, states[:, 0, column], lw=0.8, label=label)
        axis.legend(fontsize=7)
    else:
        axis.plot(t, states[:, :, 0], lw=0.8)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    class_of_processes().savefig(out / "process_class.png", dpi=80)
    names = [entry.row.name for entry in default_registry().entries("sdes")]
    figure, axes = plt.subplots(4, 4, figsize=(12, 10), layout="constrained")
    for axis, name in zip(axes.flat, names, strict=True):
        blurred(axis) if name == "blurring" else path(axis, name)
        axis.set_title(name, fontsize=10)
    figure.savefig(out / "process_paths.png", dpi=70)


if __name__ == "__main__":
    main()
