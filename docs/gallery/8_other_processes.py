"""Other processes: blur, observations, velocities.

See processes that are no single alpha and sigma: an image that blurs as it drowns in noise, a path that starts at a
noisy observation, and one whose noise enters the velocity alone.
"""

import functools

import matplotlib.pyplot as plt
import torch
import scoresde

# ## Blur
#
# `blurring` has one alpha for each frequency of an image: fine detail goes first. The top row is its mean, the bottom
# row its state.

digit = scoresde.create("targets", "mnist_mfa").sample(1, seed=3)
sde = scoresde.create("sdes", "blurring[size=28]")
eps = torch.randn(digit.shape, generator=torch.Generator().manual_seed(0))
_, axes = plt.subplots(2, 5, figsize=(9, 3.8), layout="constrained")
for column, t in zip(axes.T, (0.02, 0.1, 0.2, 0.35, 0.6), strict=True):
    level = sde.level_at(t, digit)
    for axis, noise in zip(column, (0.0, 1.0), strict=True):
        state = level.alpha * sde.frame.lift(digit) + noise * level.sigma * eps
        axis.imshow(sde.frame.drop(state)[0, 0], cmap="gray", vmin=-1, vmax=1)
        axis.axis("off")
    column[0].set_title(f"t = {t}", fontsize=9)

# ## An observation
#
# `ouve` moves from the data to an observation y of them, so its reverse starts at y with some noise. Here y is a point
# of two clusters with noise of 0.9, and the samples show what it leaves open: the exact posterior.

target = scoresde.create("targets", "observed[of=mixture2d[components=2,radius=1.5,std=0.15],noise=0.9]")
sde = scoresde.create("sdes", "ouve").given(y=torch.tensor([[0.3, 0.4]]).expand(300, 2))
path, sampler = [], scoresde.create("samplers", "pc[predictor=euler_maruyama,steps=100]")
watch = functools.partial(lambda path, done, total, x: path.append(sde.frame.leave(x, 1 - 0.97 * done / total)), path)
ends = scoresde.sample(scoresde.ExactScore(target, sde), sampler, n=300, seed=1, observe=watch).x
_, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
axis.plot(*torch.stack(path)[:, :25].permute(2, 0, 1), lw=0.5, color="0.6")
axis.scatter(*ends.T, s=4)
axis.plot(0.3, 0.4, "C3*", ms=12)
print(f"{(ends[:, 0] > 0).float().mean():.0%} of the samples lie in the cluster on the right")

# ## Position and velocity
#
# In `cld` noise enters the velocity, so positions move smoothly. Left: forward in time; right: 50 steps back.

sde, generator = scoresde.create("sdes", "cld"), torch.Generator().manual_seed(2)
walk, t = [torch.tensor([1.5, 0.0])], torch.linspace(0, 1, 2001)
for now in t[1:]:
    kick = sde.diffusion(now) @ torch.randn(2, generator=generator) / 2000**0.5
    walk.append(walk[-1] + sde.drift_rate(now) @ walk[-1] / 2000 + kick)
_, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(t, torch.stack(walk), lw=1, label=["position", "velocity"])
axes[0].legend()
model = scoresde.ExactScore(scoresde.create("targets", "mixture2d"), sde)
axes[1].scatter(*scoresde.sample(model, scoresde.create("samplers", "pc[steps=50,predictor=heun]"), 800).x.T, s=2)
