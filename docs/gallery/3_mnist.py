"""MNIST in minutes.

Draw digits with the small model that ships, then train one like it. The page takes a few steps on draws of `mnist_mfa`,
a distribution fitted to the digits, because it downloads nothing. On real digits the command is `scoresde train
mnist_vp --download --out runs/digits`, and takes about 25 minutes on two cores.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
import scoresde

registry = scoresde.default_registry()


def show(images, columns=16):
    """Images in rows."""
    rows = images.reshape(-1, columns, 28, 28).transpose(1, 2).reshape(-1, columns * 28)
    plt.figure(figsize=(columns / 2, len(rows) / 56))
    plt.imshow(rows, cmap="gray", vmin=-1, vmax=1)
    plt.axis("off")


# ## The model that ships
#
# 10 evaluations with DPM-Solver++(2M).

model = scoresde.create("checkpoints", "mnist_vp").load(registry)
sampler = scoresde.create("samplers", "pc[predictor=dpmpp_2m,grid=logsnr,steps=10]")
drawn = scoresde.sample(model.score(), sampler, n=32, seed=3)
show(drawn.x)
print(f"{drawn.nfe:.0f} evaluations a digit, {drawn.seconds:.1f} s")

# ## Train one
#
# 40 steps of a narrow network, which a real run makes 4,000 of a wider one: the loss falls at once, the digits come
# later.

changes = ["data.dataset=exact[target=mnist_mfa,count=2000,test_count=100]", "model.network.nf=16"]
changes += ["training.iterations=40", "training.log_every=10", "training.warmup=5", "data.random_flip=false"]
changes += ["training.batch_size=32", "training.evaluate_every=null", "sampling.sampler.steps=5"]
config = scoresde.create("presets", "mnist_vp").override(changes)
trainer = scoresde.plan_training(config, registry).build(scoresde.Processes(torch.device("cpu")))
for event in scoresde.TrainingRun(trainer, Path("digits"), registry.hook):
    if event.what == "loss":
        print(f"step {event.step}: loss {event.numbers['loss']:.3f}")
