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
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (SHIFT,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(images)), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    event, channel = torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[None, :, None, None]
    return padded[event, channel, rows, columns]


@torch.no_grad()
def accuracy(network, images, labels):
    network.eval()
    right = [(network(x).logits.argmax(1) == y) for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(torch.cat(right).float().mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=("cifar10", "fashion_mnist", "mnist", "svhn"))
    parser.add_argument("root", help="folder of the data set")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists: remove it, or choose another file")
    dataset = create("datasets", arguments.dataset, root=arguments.root)
    images, labels = dataset.load("train"), dataset.known("train")["labels"]
    torch.manual_seed(arguments.seed)
    network = ConvolutionalClassifier(images.shape[1], int(labels.max()) + 1)
    network.mean.copy_(images.float().mean((0, 2, 3))[:, None, None])
    network.std.copy_(images.float().std((0, 2, 3))[:, None, None])
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = arguments.epochs * (len(images) // arguments.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arguments.rate, steps)
    started, step = time.perf_counter(), 0
    for epoch in range(arguments.epochs):
        generator = torch.Generator().manual_seed(key(arguments.seed, "epoch", epoch))
        network.train()
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // arguments.batch * arguments.batch].split(arguments.batch):
            loss = F.cross_entropy(network(shifted(images[rows], generator)).logits, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            if step % 100 == 0:
                seconds = time.perf_counter() - started
                print(f"step {step} of {steps}: loss {loss.item():.4f}, {seconds:.0f} s", flush=True)
    test = accuracy(network, dataset.load("test"), dataset.known("test")["labels"])
    report = {"dataset": arguments.dataset, "images": len(images), "test_accuracy": test}
    report |= {"epochs": arguments.epochs, "batch": arguments.batch, "rate": arguments.rate, "seed": arguments.seed}
    write(arguments.out, network, tuple(images.shape[1:]), report)
    print(f"{test:.2%} of the test images; wrote {arguments.out}, {arguments.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
