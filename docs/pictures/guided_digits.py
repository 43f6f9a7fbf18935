"""Measures how many guided digits have the requested class, by scale: the table of docs/classifiers.md.

    python docs/pictures/guided_digits.py mnist_classifier --dataset 'mnist[root=data]'
    python docs/pictures/guided_digits.py cfg --checkpoint mnist_class_vp --scales 0 1 2 4 --dataset 'mnist[root=data]'

Draws equally many digits of each class, from the same noise at every scale. The extractor mnist_classifier, which was
trained on clean digits and has no part in the guidance (99.4 % accuracy on test digits), classifies them. Those of the
requested class are compared with test digits in its features: ``spread`` is the root mean square distance from the
mean of the class, over that of test digits; 1 means the same variety.
"""

import argparse
import math

import torch
from digit_posterior import DigitPosterior
from scoresde import ConditionedSampler, create, default_registry, sample
from scoresde_plugins.conditions.label import ClassObservation
from scoresde_run import GuidedSampler
from scoresde_run.models import checkpoint
from scoresde_run.results.picture import to_pixels

CLASSES = 10


@torch.no_grad()
def judged(images, labels):
    """Whether uint8 images have their class by the extractor, and the spread of those that have it."""
    network = create("extractors", "mnist_classifier").load(torch.device("cpu"))
    found = [network(part) for part in images.split(500)]
    right = torch.cat([each.logits for each in found]).argmax(1) == labels
    features = torch.cat([each.pooled for each in found])
    own = [x - x.mean(0) for k in range(CLASSES) if len(x := features[right & (labels == k)]) > 1]
    return right, math.sqrt(sum(float(x.square().sum()) for x in own) / sum(len(x) - 1 for x in own))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
what = "folder or name of a checkpoint, 'posterior' of the training digits, or 'cfg' of a model with classes"
parser.add_argument("classifier", help=what)
parser.add_argument("--checkpoint", default="mnist_vp", help="model to guide")
parser.add_argument("--sampler", default="pc[predictor=dpmpp_2m,grid=logsnr,steps=20]")
parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 2, 4, 8], help="guidance scales")
parser.add_argument("--each", type=int, default=40, help="digits per class")
parser.add_argument("--dataset", default="mnist", help="data set of test digits")
options, registry = parser.parse_args(), default_registry()
dataset, sampler = create("datasets", options.dataset), create("samplers", options.sampler)
real, n = judged(dataset.load("test"), dataset.known("test")["labels"])[1], CLASSES * options.each
model, labels = checkpoint.find(options.checkpoint, registry).load(registry), torch.arange(n) % CLASSES
score = model.score()
if options.classifier == "posterior":
    classifier = DigitPosterior(dataset, least=1.0)
elif options.classifier != "cfg":
    condition = create("conditions", f"class[checkpoint={options.classifier}]")
    classifier = condition.observe(torch.zeros(1, *model.shape)).classifier
print("| scale | NFE | as asked | spread |\n|---:|---:|---:|---:|")
for scale in options.scales:
    if options.classifier == "cfg":
        score = score.given(**{"class": labels})
        guided = GuidedSampler(sampler, create("guidances", f"cfg[scale={scale}]"))
    else:
        guided = ConditionedSampler(sampler, ClassObservation(labels, classifier, scale))
    drawn = sample(score, guided, n, seed=2)
    right, spread = judged(torch.from_numpy(to_pixels(drawn.x)).permute(0, 3, 1, 2), labels)
    share = float(right.double().mean())
    error = math.sqrt(share * (1 - share) / n)
    print(f"| {scale:g} | {drawn.nfe:g} | {share:.3f} ± {error:.3f} | {spread / real:.2f} |", flush=True)
