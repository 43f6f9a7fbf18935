"""Other processes: blur, observations, velocities.

See processes that are no single alpha and sigma: an image that blurs as it drowns in noise, a path that starts at a
noisy observation, and one whose noise enters the velocity alone.
"""

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
figure, axes = plt.subplots(2, 5, figsize=(9, 3.8), layout="constrained")
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
y = torch.tensor([[0.3, 0.4]]).expand(300, 2)
model = scoresde.ExactScore(target, scoresde.create("sdes", "ouve").given(y=y))
path = []
sampler = scoresde.create("samplers", "pc[predictor=euler_maruyama,steps=100]")
ends = scoresde.sample(model, sampler, n=300, seed=1, observe=lambda done, total, x: path.append(x.clone())).x
figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
frame = model.sde.frame
times = torch.linspace(1, 0.03, 100)
drawn = [frame.leave(x, float(t)) for x, t in zip(path, times, strict=True)]
axis.plot(*torch.stack(drawn)[:, :25].permute(2, 0, 1), lw=0.5, color="0.6")
axis.scatter(*ends.T, s=4)
axis.scatter(*y[:1].T, marker="*", s=120, color="C3", zorder=3)
axis.set(title="from y (star) to what it may have been", aspect="equal")
print(f"{(ends[:, 0] > 0).float().mean():.0%} of the samples lie in the cluster on the right")

# ## Position and velocity
#
# In `cld` noise enters the velocity, so positions move smoothly. A state has both: its first half is the position.

sde = scoresde.create("sdes", "cld")
generator = torch.Generator().manual_seed(2)
state, steps = torch.tensor([[1.5, 0.0]]), 2000
walk = [state]
for k in range(steps):
    drift = sde.drift_rate(torch.tensor(k / steps)) @ state[0]
    kick = sde.diffusion(torch.tensor(k / steps)) @ torch.randn(2, generator=generator)
    state = state + drift / steps + kick / steps**0.5
    walk.append(state)
position, velocity = torch.cat(walk).T
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(torch.linspace(0, 1, steps + 1), position, label="position")
axes[0].plot(torch.linspace(0, 1, steps + 1), velocity, lw=0.6, label="velocity")
axes[0].set(title="forward in time", xlabel="t")
axes[0].legend()
target = scoresde.create("targets", "mixture2d")
model = scoresde.ExactScore(target, sde)
axes[1].scatter(*scoresde.sample(model, scoresde.create("samplers", "pc[predictor=dpmpp_2m,steps=50]"), 800).x.T, s=2)
axes[1].set(title="50 steps back to eight clusters", aspect="equal")
