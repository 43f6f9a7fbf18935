"""Measures the upper bound in docs/classifiers.md: how well the exact posterior classifies noisy test digits.

    python docs/pictures/digit_posterior.py 'mnist[root=data]' --events 2000

For x = x_0 + sigma z, with x_0 one of the N training digits, p(y | x) is closed form: the sum of exp(-|x - x_i|^2 /
(2 sigma^2)) over digits of the class, divided by the sum over all. If sigma is at least the distance of neighbours,
this is what a classifier can learn from the data; below, it is the nearest neighbour, and overconfident.
"""

import argparse
import math

import torch

from scoresde_core import create
from scoresde_run.models.classifier import NoisyClassifier

SIGMAS = torch.logspace(math.log10(0.01), math.log10(160), 11).tolist()


def events(dataset, split):
    """Digits in [-1, 1], (N, D), and their labels."""
    return dataset.load(split).flatten(1).float() / 127.5 - 1, dataset.known(split)["labels"]


def log_posterior(x, sigma, known, classes):
    """Return (B, K) for ``x`` (B, D); ``known`` (N, D) has the one-hot ``classes`` (N, K)."""
    exponent = (x @ known.T - 0.5 * known.square().sum(1)) / sigma**2
    weight = (exponent - exponent.amax(1, keepdim=True)).exp() @ classes
    return (weight / weight.sum(1, keepdim=True)).clamp_min(1e-12).log()


class DigitPosterior(NoisyClassifier):
    """The posterior as a classifier for guidance, for guided_digits.py, with sigma of at least 1.

    (With less it is the nearest neighbour: its gradient is zero in most places, and elsewhere enormous.)
    """

    classes = 10

    def __init__(self, dataset):
        self.known, own = events(dataset, "train")
        self.own = torch.nn.functional.one_hot(own).float()

    def log_probabilities(self, x, level):
        sigma = max(float(level.sigma / level.alpha), 1.0)
        return log_posterior(x.flatten(1) / float(level.alpha), sigma, self.known, self.own)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", default="mnist")
    parser.add_argument("--events", type=int, default=2000, help="number of test digits")
    options = parser.parse_args()
    dataset = create("datasets", options.dataset)
    (known, own), (x, labels) = events(dataset, "train"), events(dataset, "test")
    x, labels = x[: options.events], labels[: options.events]
    classes, generator = torch.nn.functional.one_hot(own).float(), torch.Generator().manual_seed(0)
    print("| sigma | accuracy | cross entropy (nats) |\n|---:|---:|---:|")
    for sigma in SIGMAS:
        noisy = x + sigma * torch.randn(x.shape, generator=generator)
        logs = torch.cat([log_posterior(part, sigma, known, classes) for part in noisy.split(250)])
        accuracy = float((logs.argmax(1) == labels).double().mean())
        entropy = -float(logs.gather(1, labels[:, None]).mean())
        print(f"| {sigma:.4g} | {accuracy:.3f} | {entropy:.3f} |", flush=True)


if __name__ == "__main__":
    main()
