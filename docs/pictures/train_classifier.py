"""Trains the small classifier whose features measure sample quality (docs/sample_quality.md), on a labelled data set.

    python docs/pictures/train_classifier.py mnist data \\
        plugins/scoresde_plugins/extractors/mnist_classifier.safetensors

makes the bundled file in a few minutes on one CPU core. ``mnist``, ``fashion_mnist``, ``cifar10`` and ``svhn`` are read
through torchvision from the folder of the second argument. The only augmentation is shifts of up to two pixels.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from scoresde_core import create
from scoresde_core.noise import key
from scoresde_plugins.extractors.networks import ConvolutionalClassifier, write

SHIFT = 2


def shifted(images, generator):
    """Shift each image by up to two pixels in both directions, with the border repeated."""
    padded = F.pad(images.float(), (SHIFT,) * 4, mode="replicate")
    windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("dataset", choices=("cifar10", "fashion_mnist", "mnist", "svhn"))
parser.add_argument("root", help="folder of the data set")
parser.add_argument("out", type=Path, help="the .safetensors file to write")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
if options.out.exists():
    parser.error(f"{options.out} exists: remove it, or choose another file")
dataset = create("datasets", options.dataset, root=options.root)
images, labels = dataset.load("train"), dataset.known("train")["labels"]
torch.manual_seed(options.seed)
network = ConvolutionalClassifier(images.shape[1], int(labels.max()) + 1)
network.mean.copy_(images.float().mean((0, 2, 3))[:, None, None])
network.std.copy_(images.float().std((0, 2, 3))[:, None, None])
optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
steps, step, started = options.epochs * (len(images) // options.batch), 0, time.perf_counter()
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, steps)
for epoch in range(options.epochs):
    generator = torch.Generator().manual_seed(key(options.seed, "epoch", epoch))
    order = torch.randperm(len(images), generator=generator)
    for rows in order[: len(order) // options.batch * options.batch].split(options.batch):
        loss = F.cross_entropy(network(shifted(images[rows], generator)).logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        step += 1
        if step % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step} of {steps}: loss {loss.item():.4f}, {seconds:.0f} s", flush=True)
with torch.no_grad():
    answers = torch.cat([network.eval()(part).logits.argmax(1) for part in dataset.load("test").split(500)])
test = float((answers == dataset.known("test")["labels"]).float().mean())
report = {"dataset": options.dataset, "images": len(images), "test_accuracy": test}
report |= {"epochs": options.epochs, "batch": options.batch, "rate": options.rate, "seed": options.seed}
write(options.out, network, tuple(images.shape[1:]), report)
print(f"{test:.2%} of the test images; wrote {options.out}, {options.out.stat().st_size / 1e3:.0f} kB")
