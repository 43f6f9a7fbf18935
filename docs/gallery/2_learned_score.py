"""An exact score against a learned one.

Train a small network on points whose true score is known, and see where it is right, where it is wrong, and that more
steps help. A minute of training does better; this page takes seconds.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
import scoresde

# ## Train
#
# A preset is a whole recipe; `override` changes any key of it. The same in a shell: `scoresde train moons_vp --out
# runs/moons`.

config = scoresde.create("presets", "moons_vp").override(["training.iterations=600", "training.log_every=200"])
registry = scoresde.default_registry()
trainer = scoresde.plan_training(config, registry).build(scoresde.Processes(torch.device("cpu")))
for event in scoresde.TrainingRun(trainer, Path("moons"), registry.hook):
    if event.what == "loss":
        print(f"step {event.step}: loss {event.numbers['loss']:.3f}")

# ## Compare
#
# The data set of the preset is made of draws of an exact target, which knows its score at every noise level. Arrows
# point where the score does, their colour is its size, the dots are the noisy data. The percentages are over all
# arrows: the network is right where the dots are, and guesses elsewhere.

model = trainer.averaged()
target = scoresde.create("targets", config.data.dataset.params["target"])
data, noise = target.sample(1000), torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
side = torch.linspace(-2.5, 2.5, 16)
x = torch.cartesian_prod(side, side)
figure, axes = plt.subplots(2, 3, figsize=(10, 6.5), layout="constrained")
for column, t in zip(axes.T, (0.05, 0.2, 0.6), strict=True):
    level = model.sde.float_level(t)
    with torch.no_grad():
        learned, exact = model.score().score(x, level), target.score(x, level)
    off = float((learned - exact).square().sum().sqrt() / exact.square().sum().sqrt())
    for axis, arrows, name in zip(column, (exact, learned), ("exact", f"learned, {off:.0%} off"), strict=True):
        axis.scatter(*model.sde.perturb(data, torch.full((len(data),), t), noise).T, s=1, color="0.8")
        axis.quiver(*x.T, *torch.nn.functional.normalize(arrows).T, arrows.norm(dim=1), scale=24)
        axis.set(title=f"t = {t}: {name}", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
