"""Inpainting against the exact posterior.

Know one coordinate of a point, draw the other. The conditional law of a mixture is known in closed form, so a method
can be seen to be right or wrong: plain replacement is wrong, particles are right.
"""

import matplotlib.pyplot as plt
import torch
import scoresde

# ## What is known
#
# Four Gaussians, most of the mass on one diagonal, and x = 0.25. The truth is the joint density along that line,
# normalised.

target = scoresde.create("targets", "mixture2d[layout=grid,components=4,radius=1.5,std=0.4,weights=[0.4,0.1,0.1,0.4]]")
model = scoresde.ExactScore(target, scoresde.create("sdes", "vp"))
n, x = 1000, 0.25
y = torch.linspace(-3, 3, 400)
truth = target.log_prob(torch.stack([torch.full_like(y, x), y], 1)).exp()
truth /= truth.sum() * (y[1] - y[0])

# ## Three methods, one question
#
# Replacement puts the known coordinate in after every step. `rounds` repeats each step, which helps. `smcdiff` weighs
# particles by how well they predicted what was known, and is exact in the limit. The price is in the titles.

steps = scoresde.create("samplers", "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=30]")
given = torch.tensor([[x, 0.0]]).expand(n, 2)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", sharey=True)
left = "inpaint[mask=left]"
methods = [(left, 1), (left, 10), (f"smcdiff[condition={left},particles=32]", 1)]
for axis, (name, rounds) in zip(axes, methods, strict=True):
    observed = scoresde.create("conditions", name).observe(given)
    drawn = scoresde.sample(model, scoresde.ConditionedSampler(steps, observed, rounds), n)
    share, true = float((drawn.x[:, 1] > 0).float().mean()), float(truth[y > 0].sum() * (y[1] - y[0]))
    axis.hist(drawn.x[:, 1].numpy(), 60, (-3, 3), density=True, color="0.75")
    axis.plot(y, truth, "r")
    word = name.partition("[")[0] + f", rounds={rounds}" * (rounds > 1)
    axis.set_title(f"{word}: {drawn.nfe:.0f} evaluations", fontsize=9)
    axis.set_xlabel(f"y, given x = {x}")
    print(f"{word}: share of y > 0 is {share:.2f}, the truth is {true:.2f}")

# The same on images, with the errors of every method: [Controllable generation](../conditions.md).
