"""Measures how many guided digits have the requested class, by scale; draws the picture of docs/classifiers.md.

    python docs/pictures/guided_digits.py mnist_classifier docs/pictures/digits_by_class.png \\
        --dataset 'mnist[root=data]'

Draws equally many digits of each class, from the same noise at every scale. The extractor mnist_classifier, which was
trained on clean digits and has no part in the guidance (99.4 % accuracy on test digits), classifies them. Those of the
requested class are compared with test digits in its features: ``spread`` is the root mean square distance from the
mean of the class, over that of test digits; 1 means the same variety.
"""

import argparse
import math

import torch
from condition_picture import save
from digit_posterior import DigitPosterior

from scoresde import ConditionedSampler, create, default_registry, sample
from scoresde_plugins.conditions.label import ClassObservation
from scoresde_run.machine.device import keep_freed_memory
from scoresde_run.models import checkpoint
from scoresde_run.results.picture import to_pixels

CLASSES = 10


def classified(images):
    """Features (N, 96) and classes (N,) of uint8 images by the extractor."""
    network = create("extractors", "mnist_classifier").load(torch.device("cpu"))
    with torch.no_grad():
        found = [network(part) for part in images.split(500)]
    return torch.cat([f.pooled for f in found]), torch.cat([f.logits for f in found]).argmax(1)


def spread(features, answers, labels):
    """Root mean square distance from the mean of the class, over correctly classified images."""
    classes = [features[(labels == k) & (answers == k)] for k in range(CLASSES)]
    own = [x - x.mean(0) for x in classes if len(x) > 1]
    free = sum(len(x) - 1 for x in own)
    return math.sqrt(sum(float(x.square().sum()) for x in own) / free)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "classifier", help="guiding classifier: folder or name of a checkpoint, or 'posterior' of the training digits"
    )
    parser.add_argument("out", nargs="?", help="picture to write")
    parser.add_argument("--checkpoint", default="mnist_vp", help="model to guide")
    parser.add_argument("--sampler", help="default: the model's own")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 2, 4, 8], help="guidance scales")
    parser.add_argument("--shown", type=float, default=4, help="scale shown in the picture")
    parser.add_argument("--each", type=int, default=40, help="digits per class")
    parser.add_argument("--dataset", default="mnist", help="data set of test digits")
    options = parser.parse_args()
    keep_freed_memory()
    dataset = create("datasets", options.dataset)
    real, n = spread(*classified(dataset.load("test")), dataset.known("test")["labels"]), CLASSES * options.each
    model = checkpoint.find(options.checkpoint, default_registry()).load(default_registry())
    sampler = create("samplers", options.sampler) if options.sampler else model.plan.sampler
    labels = torch.arange(n) % CLASSES
    if options.classifier == "posterior":
        classifier = DigitPosterior(dataset)
    else:
        condition = create("conditions", f"class[checkpoint={options.classifier}]")
        classifier = condition.observe(torch.zeros(1, *model.shape)).classifier
    print("| scale | as asked | spread |\n|---:|---:|---:|")
    for scale in options.scales:
        observed = ClassObservation(labels, classifier, scale)
        x = sample(model.score(), ConditionedSampler(sampler, observed), n, seed=2).x
        features, answers = classified(torch.from_numpy(to_pixels(x)).permute(0, 3, 1, 2))
        share = float((answers == labels).double().mean())
        error = math.sqrt(share * (1 - share) / n)
        various = spread(features, answers, labels) / real
        print(f"| {scale:g} | {share:.3f} ± {error:.3f} | {various:.2f} |", flush=True)
        if scale == options.shown and options.out:
            rows = [x[labels == k][:8] for k in range(CLASSES)]
            save(options.out, rows, [str(k) for k in range(CLASSES)])


if __name__ == "__main__":
    main()
