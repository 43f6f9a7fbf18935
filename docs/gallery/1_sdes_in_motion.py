"""SDEs in motion.

See what a forward process does to data, and how a sampler brings noise back: eight points of a spiral on their way,
under three processes. The score is exact, so nothing is trained.
"""

import functools

import matplotlib.pyplot as plt
import torch
import scoresde

target = scoresde.create("targets", "mixture2d[layout=spiral,components=60,std=0.08]")
data = target.sample(800)
names = ("ve[sigma_max=10]", "vp", "rectified_flow")

# ## From data to noise
#
# Every process here is x_t = alpha(t) x_0 + sigma(t) eps. VE adds ever more noise; VP shrinks the data as it does; the
# rectified flow goes there in straight lines. (Each panel has its own scale.)

times = torch.tensor([0.01, 0.1, 0.3, 0.6, 1.0])
eps = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
figure, axes = plt.subplots(len(names), len(times), figsize=(11, 6.8), layout="constrained")
for row, name in zip(axes, names, strict=True):
    sde = scoresde.create("sdes", name)
    for axis, t in zip(row, times, strict=True):
        axis.scatter(*sde.perturb(data, t.expand(len(data)), eps).T, s=2)
        axis.set_title(f"{name.partition('[')[0]}, t = {t:.2f}", fontsize=9)
        width = 3 * float(sde.float_level(float(t)).sigma) + 2.2 * float(sde.float_level(float(t)).alpha)
        axis.set(xticks=[], yticks=[], xlim=(-width, width), ylim=(-width, width))

# ## And back
#
# `sample` calls `observe` after every step, so paths can be watched. Left: DDIM, which follows the probability flow.
# Right: the reverse SDE, which adds noise at each step. Both end on the same spiral.

sde = scoresde.create("sdes", "vp")
model = scoresde.ExactScore(target, sde)
figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for axis, predictor in zip(axes, ("ddim", "euler_maruyama"), strict=True):
    path = []
    watch = functools.partial(lambda path, done, total, x: path.append(x[:8].clone()), path)
    sampler = scoresde.create("samplers", f"pc[predictor={predictor},steps=200]")
    drawn = scoresde.sample(model, sampler, n=800, observe=watch)
    axis.scatter(*drawn.x.T, s=2, color="0.7")
    axis.plot(*torch.stack(path).permute(2, 0, 1), lw=0.7)
    axis.set(title=f"{predictor}: {drawn.nfe:.0f} evaluations", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
