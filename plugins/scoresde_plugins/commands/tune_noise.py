"""``scoresde tune-noise``: noise scales and Langevin steps for a data set, by the rules of NCSNv2."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Callable
from typing import Any

import attrs
from scoresde_core import Command, Registry, UsageError
from scoresde_run.commands.options import add_device, check_counts, seed

_NUMBERS: dict[str, tuple[Callable[[str], Any], Any, str]] = {
    "images": (int, 10_000, "training images, drawn at random, whose distances are computed"),
    "seed": (seed, 0, "seed of that draw"),
    "sigma-min": (float, 0.01, "smallest noise scale"),
    "overlap": (float, 0.5, "share of a noise scale that the next one covers (technique 2)"),
    "scales": (int, None, "number of noise scales, instead of technique 2's"),
    "budget": (int, 1160, "function evaluations per sample, divided among the scales as Langevin steps (technique 4)"),
}
_TEXT = """{dataset}: {subset} training events, {dimensions} dimensions, {scaling}
sigma_max  {sigma_max:.2f}, the largest distance between two of them (technique 1)
scales     {scales}, from {sigma_max:.4g} to {sigma_min:.4g} (technique 2)
Langevin   {steps_per_scale} steps a scale of {step_size:.3g} (sigma / sigma_min)^2, {ratio} (technique 4)
EMA        {ema} (technique 5)
train      scoresde train {preset} {changes} --out runs/tuned
sample     scoresde sample --checkpoint runs/tuned --out samples"""


@attrs.frozen
class TuneNoiseCommand(Command):
    """Computes sigma_max from the largest distance between two images, and scales and steps by NCSNv2's formulas.

    The distance in a random subset is a lower bound of that in the whole set, and grows slowly with its size.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", metavar="DATASET", help="such as cifar10, or 'image_folder[path=here,size=64]'")
        parser.add_argument("--centered", action="store_true", help="images in [-1, 1] instead of [0, 1]")
        add_device(parser, default="cpu")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        for name, (kind, default, text) in _NUMBERS.items():
            shown = "" if default is None else f" (default: {default})"
            parser.add_argument(f"--{name}", type=kind, default=default, metavar="X", help=text + shown)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        check_counts(arguments, "images", least=2)
        check_counts(arguments, "budget")
        try:
            found = _suggest(registry.create("datasets", arguments.dataset), arguments)
        except (ValueError, RuntimeError) as error:
            raise UsageError(str(error).partition("\n")[0]) from error
        subset = f"{found['images']} of {found['of']}" if found["images"] < found["of"] else f"all {found['of']}"
        image = len(found["shape"]) == 3
        how = {"preset": "ve_ncsnv2_cifar10" if image else "lesson_many_scales", "subset": subset}
        how["ratio"] = f"variance ratio {found['variance_ratio']:.3f}"
        changes = " ".join(map(shlex.quote, _changes(found, image)))
        print(json.dumps(found) if arguments.json else _TEXT.format(**found, **how, changes=changes))
        return 0


def _suggest(dataset: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """The rules' numbers for a data set."""
    from scoresde_run import Preprocessing
    from scoresde_run.commands.events import take
    from scoresde_run.data.batches import order
    from ..ncsn import techniques

    events = dataset.open("train")
    drawn = take(events, order(arguments.seed, 0, len(events))[: arguments.images].tolist())
    x = Preprocessing(centered=arguments.centered)(drawn.to(arguments.device))
    dimensions, least, scales = math.prod(dataset.shape), arguments.sigma_min, arguments.scales
    sigma_max = techniques.largest_distance(x)
    if scales is None:
        scales = techniques.number_of_scales(dimensions, least, sigma_max, arguments.overlap)
    gamma = techniques.geometric_ratio(least, sigma_max, scales)
    langevin = techniques.langevin_steps(gamma, least, max(1, arguments.budget // scales))
    scaling = "as stored" if drawn.is_floating_point() else "on [-1, 1]" if arguments.centered else "on [0, 1]"
    return {
        **{"dataset": arguments.dataset, "images": len(x), "of": len(events), "shape": list(dataset.shape)},
        **{"dimensions": dimensions, "centered": arguments.centered, "scaling": scaling, "sigma_min": least},
        **{"sigma_max": sigma_max, "scales": scales, "steps_per_scale": langevin.steps, "snr": langevin.snr},
        **{"step_size": langevin.step_size, "variance_ratio": langevin.variance_ratio, "ema": techniques.EMA_RATE},
    }


def _changes(found: dict[str, Any], image: bool) -> list[str]:
    """The rules' numbers as KEY=VALUE of a configuration."""
    corrector = f"ald[snr={found['snr']:.4g},n_steps={found['steps_per_scale']}]"
    return [
        f"data.dataset={found['dataset']}",
        f"model.shape=[{','.join(map(str, found['shape']))}]",
        f"model.centered={str(found['centered']).lower()}",
        f"model.sde=ve[sigma_min={found['sigma_min']:.4g},sigma_max={found['sigma_max']:.4g}]",
        *(["model.network.variant=auto"] if image else []),
        f"model.network.scales={found['scales']}",
        f"training.ema={found['ema']}",
        f"sampling.sampler=pc[predictor=none,corrector={corrector},steps={found['scales']}]",
    ]
