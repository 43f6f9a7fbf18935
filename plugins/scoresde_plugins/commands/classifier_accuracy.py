"""``scoresde classifier-accuracy``: the accuracy of a noise-conditional classifier at each noise level."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
from scoresde_core import Command, Registry
from scoresde_run.commands.options import add_changes, add_device, add_seed, check_counts

if TYPE_CHECKING:
    from torch import Tensor
    from scoresde_core import Level
    from scoresde_run import Batches, Model

_NUMBERS = {
    "levels": (11, "noise levels, evenly spaced in the time of the classifier's SDE"),
    "events": (10_000, "test events, the first of them"),
    "batch-size": (500, "events at a time"),
}

_KEYS = ("sigma_over_alpha", "accuracy", "accuracy_stderr", "cross_entropy", "cross_entropy_stderr")
_LINE = "{:>11.4g}  {:>7.4f} ± {:.4f}  {:>11.4f} ± {:.4f}"


@attrs.frozen
class ClassifierAccuracyCommand(Command):
    """Measures accuracy and cross entropy of a classifier on the test split, one line per noise level.

    The noise is the same for every checkpoint, so two may be compared level by level.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run, a model, or a name")
        add_changes(parser, "data.dataset.root=elsewhere")
        add_device(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object per level instead of a table")
        for name, (default, text) in _NUMBERS.items():
            help_text = f"{text} (default: {default})"
            parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)
        add_seed(parser, "seed of the noise")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        check_counts(arguments, "levels", "events", "batch_size")
        rows = list(_measured(arguments, registry))
        head = f"{'sigma/alpha':>11}  {'accuracy':>16}  {'cross entropy (nats)':>20}"
        print(
            "\n".join(
                map(json.dumps, rows) if arguments.json else [head, *(_LINE.format(*row.values()) for row in rows)]
            )
        )
        return 0


def _measured(arguments: argparse.Namespace, registry: Registry) -> Iterator[dict[str, float]]:
    import torch
    from scoresde_run import Batches, plan_data
    from scoresde_run.machine.device import find_device, use_tf32
    from scoresde_run.models import checkpoint

    device = find_device(arguments.device)
    use_tf32(False)
    found = checkpoint.find(arguments.checkpoint, registry)
    found = attrs.evolve(found, config=found.config.override(arguments.set))
    model = found.load(registry, outputs=("logits",)).to(device)
    dataset, preprocessing = plan_data(model.plan, registry)
    how = {"split": "test", "seed": arguments.seed, "preprocessing": attrs.evolve(preprocessing, flip=False)}
    size = min(arguments.batch_size, arguments.events)
    batches = Batches(dataset, size, **how, device=device, workers=0, needs=("labels",))
    for t in torch.linspace(model.sde.t_min, 1, arguments.levels, dtype=torch.float64).tolist():
        at = model.sde.level(torch.tensor(t, dtype=torch.float64))
        at = attrs.evolve(at, t=t, alpha=float(at.alpha), sigma=float(at.sigma))
        yield _row(model, batches, at, arguments.events)


def _row(model: Model, batches: Batches, level: Level, events: int) -> dict[str, float]:
    import torch
    from scoresde_core.shapes import combine
    from ..evaluate.measure import mean

    right: list[Tensor] = []
    surprise: list[Tensor] = []
    with torch.no_grad():
        for number, batch in enumerate(batches.once()):
            x = batch.x[: events - number * batches.batch_size]
            if not len(x):
                break
            labels = batch.known["labels"][: len(x)]
            noise = batches.draws(f"accuracy {number}", len(x)).normal(x)
            logs = model.view().log_probabilities(combine(level.alpha, x, level.sigma, noise), level)
            right.append((logs.argmax(1) == labels).double())
            surprise.append(-logs.gather(1, labels.unsqueeze(1)).squeeze(1).double())
    means = [mean("", torch.cat(parts)) for parts in (right, surprise)]
    return dict(
        zip(_KEYS, (float(level.sigma / level.alpha), *(x for m in means for x in (m.value, m.stderr))), strict=True)
    )
