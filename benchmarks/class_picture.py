"""The picture of docs/classifiers.md: digits by class, from the exact score of mnist_mfa and a trained classifier.

    scoresde train mnist_classifier --out runs/classifier
    python benchmarks/class_picture.py runs/classifier docs/pictures/digits_by_class.png

Prints how many of the samples the classifier takes for what was asked of it, with guidance and without. (It judges its
own work: the figure says that guidance acts, the picture whether it acts well.)
"""

import argparse

import torch

from condition_picture import STEPS, N, save
from scoresde_core import ConditionedSampler, ExactScore, Level, create, sample
from scoresde_core.device import keep_freed_memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--scale", type=float, default=1.0, help="guidance scale")
    options = parser.parse_args()
    keep_freed_memory()
    target, sde, labels = create("targets", "mnist_mfa"), create("sdes", "vp"), torch.arange(10)
    condition = create(
        "conditions", f"class[checkpoint={options.checkpoint},label={labels.tolist()},scale={options.scale}]"
    )
    observed = condition.observe(torch.zeros(10 * N, 1, 28, 28))
    sampler, model = create("samplers", STEPS), ExactScore(target)
    guided = sample(model, sde, ConditionedSampler(sampler, observed), target.shape, 10 * N, seed=2).x
    free = sample(model, sde, sampler, target.shape, 10 * N, seed=2).x
    for name, x in (("guided", guided), ("not guided", free)):
        with torch.no_grad():
            found = observed.classifier.log_probabilities(x, Level(0.0, 1.0, 0.01)).argmax(1)
        print(f"{name:>10}: {int((found == observed.labels).sum())} of {10 * N} are taken for their label")
    save(options.out, [guided[observed.labels == label] for label in labels], [str(label) for label in labels.tolist()])


if __name__ == "__main__":
    main()
