"""Choosing a sampler.

Which predictor, for how many evaluations? Ask the truth: with an exact score all error is the sampler's. The measure is
the energy distance to exact samples; the grey band is what exact samples themselves score.
"""

import matplotlib.pyplot as plt
import torch
import scoresde

target = scoresde.create("targets", "mixture2d[layout=spiral]")
model = scoresde.ExactScore(target, scoresde.create("sdes", "vp"))
n, budgets = 1000, (6, 10, 20, 40)
truth = target.sample(n, seed=1)


def distance(x, y):
    """2 E|x - y| - E|x - x'| - E|y - y'|, unbiased."""
    own = [torch.pdist(points).mean() for points in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - sum(own))


floor = abs(torch.tensor([distance(target.sample(n, seed), truth) for seed in range(2, 12)])).max()

# ## Six predictors
#
# A predictor with two evaluations a step (`heun`) gets half as many steps. `nfe` is counted, not computed.

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, cost in (("reverse_diffusion", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 1), ("unipc", 1), ("ipndm", 1)):
    asked = [f"pc[predictor={name},grid=logsnr,steps={budget // cost}]" for budget in budgets]
    drawn = [scoresde.sample(model, scoresde.create("samplers", text), n) for text in asked]
    axis.plot([d.nfe for d in drawn], [abs(distance(d.x, truth)) for d in drawn], "o-", label=name)
axis.axhspan(0, float(floor), color="0.9", label="exact samples")
axis.set(xscale="log", yscale="log", xlabel="evaluations a sample", ylabel="energy distance")
axis.legend(fontsize=8)

# With errors, floors and every combination of grid and process, one command does the same: `scoresde-bench --target
# 'mixture2d[layout=spiral]' --predictor ddim heun dpmpp_2m --steps 5,10,20`. What was found with images: [Which
# sampler?](../which_sampler.md)
