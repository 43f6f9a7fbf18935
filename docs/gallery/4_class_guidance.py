"""Digits of a class.

Ask an unconditional model for the class you want: a classifier of noisy images, which ships too, adds its gradient to
the score. `scale` is how hard it pulls.
"""

import matplotlib.pyplot as plt
import torch

import scoresde

registry = scoresde.default_registry()
model = scoresde.create("checkpoints", "mnist_vp").load(registry)
sampler = scoresde.create("samplers", "pc[predictor=dpmpp_2m,grid=logsnr,steps=10]")

# ## One class a column
#
# The seed is the same in all rows, so a column shows what the pull alone changes.

rows = []
for scale in (0, 1, 4):
    asked = f"class[checkpoint=mnist_classifier,label=[0,1,2,3,4,5,6,7,8,9],scale={scale}]"
    observed = scoresde.create("conditions", asked).observe(torch.zeros(10, *model.shape))
    drawn = scoresde.sample(model.score(), scoresde.ConditionedSampler(sampler, observed), n=10, seed=2)
    rows.append(torch.cat(list(drawn.x[:, 0]), 1))

plt.figure(figsize=(8, 2.6))
plt.imshow(torch.cat(rows), cmap="gray", vmin=-1, vmax=1)
plt.yticks([14, 42, 70], ["scale 0", "scale 1", "scale 4"])
plt.xticks([14 + 28 * k for k in range(10)], range(10))

# How many are of the class that was asked for, and how varied they remain, is measured in
# [Classifiers](../classifiers.md).
