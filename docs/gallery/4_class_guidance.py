"""Digits of a class.

Ask for the class you want. A network that was trained with classes knows it, and classifier-free guidance makes its
digits clearer; or a classifier of noisy images guides a network that knows nothing.
"""

import matplotlib.pyplot as plt
import torch
import scoresde
from scoresde_run import GuidedSampler

registry = scoresde.default_registry()
sampler = scoresde.create("samplers", "pc[predictor=dpmpp_2m,grid=logsnr,steps=10]")
digits = torch.arange(10)

# ## By a network that knows the class
#
# Scale 0 is the network without its class, 1 with it, 2 goes as far again beyond. The seed is the same in all rows.

model = scoresde.create("checkpoints", "mnist_class_vp").load(registry)
rows, names = [], []
for scale in (0, 1, 2):
    guided = GuidedSampler(sampler, scoresde.create("guidances", f"cfg[scale={scale}]"))
    drawn = scoresde.sample(model.score().given(**{"class": digits}), guided, n=10, seed=2)
    rows.append(torch.cat(list(drawn.x[:, 0]), 1))
    names.append(f"cfg {scale}, NFE {drawn.nfe:g}")

# ## By a classifier
#
# An unconditional network, pulled by the gradient of a classifier that ships too.

asked = "class[checkpoint=mnist_classifier,label=[0,1,2,3,4,5,6,7,8,9],scale=4]"
plain = scoresde.create("checkpoints", "mnist_vp").load(registry)
observed = scoresde.create("conditions", asked).observe(torch.zeros(10, *plain.shape))
drawn = scoresde.sample(plain.score(), scoresde.ConditionedSampler(sampler, observed), n=10, seed=2)
rows.append(torch.cat(list(drawn.x[:, 0]), 1))
names.append("classifier 4, NFE 10")

plt.figure(figsize=(9, 3.4))
plt.imshow(torch.cat(rows), cmap="gray", vmin=-1, vmax=1)
plt.yticks([14 + 28 * k for k in range(4)], names)
plt.xticks([14 + 28 * k for k in range(10)], range(10))

# How many are of the class that was asked for, and how varied they remain, is measured in
# [Classifiers](../classifiers.md). What guidance does to the law is in [What is known](../known.md).
