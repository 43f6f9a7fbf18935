"""Measures the upper bound in docs/classifiers.md: how well the exact posterior classifies noisy test digits.

    python docs/pictures/digit_posterior.py 'mnist[root=data]'

For x = x_0 + sigma z, with x_0 one of the N training digits, p(y | x) is closed form: the sum of exp(-|x - x_i|^2 /
(2 sigma^2)) over digits of the class, divided by the sum over all. If sigma is at least the distance of neighbours,
this is what a classifier can learn from the data; below, it is the nearest neighbour, and overconfident.
"""

import sys

import torch
from scoresde_core import create
from scoresde_run import NoisyClassifier

EVENTS = 2000


def events(dataset, split):
    """Digits in [-1, 1], (N, D), and their labels."""
    return dataset.load(split).flatten(1).float() / 127.5 - 1, dataset.known(split)["labels"]


class DigitPosterior(NoisyClassifier):
    """The posterior as a classifier; ``least`` bounds sigma below.

    (Where sigma is small it is the nearest neighbour: its gradient is zero in most places, and elsewhere enormous.)
    """

    classes = 10

    def __init__(self, dataset, least=0.0):
        self.known, own = events(dataset, "train")
        self.own, self.least = torch.nn.functional.one_hot(own).float(), least

    def log_probabilities(self, x, level):
        sigma = max(float(level.sigma / level.alpha), self.least)
        x = x.flatten(1) / float(level.alpha)
        weight = ((x @ self.known.T - 0.5 * self.known.square().sum(1)) / sigma**2).softmax(1) @ self.own
        return weight.clamp_min(1e-12).log()


if __name__ == "__main__":
    dataset = create("datasets", *sys.argv[1:] or ["mnist"])
    posterior, (x, labels) = DigitPosterior(dataset), (part[:EVENTS] for part in events(dataset, "test"))
    sde, generator = create("sdes", "ve[sigma_min=0.01,sigma_max=160]"), torch.Generator().manual_seed(0)
    print("| sigma | accuracy | cross entropy (nats) |\n|---:|---:|---:|")
    for t in torch.linspace(0, 1, 11).tolist():
        level = sde.float_level(t)
        noisy = x + level.sigma * torch.randn(x.shape, generator=generator)
        logs = torch.cat([posterior.log_probabilities(part, level) for part in noisy.split(250)])
        accuracy, entropy = (logs.argmax(1) == labels).double().mean(), torch.nn.functional.nll_loss(logs, labels)
        print(f"| {level.sigma:.4g} | {accuracy:.3f} | {entropy:.3f} |", flush=True)
