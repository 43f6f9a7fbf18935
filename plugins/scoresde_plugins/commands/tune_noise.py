"""``scoresde tune-noise``: noise scales and Langevin steps for a data set, by the rules of NCSNv2."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, Registry, UsageError
from scoresde_run.commands.options import add_device, check_counts, seed

if TYPE_CHECKING:
    from torch import Tensor
    from scoresde_run import Dataset

_NUMBERS: dict[str, tuple[Callable[[str], Any], Any, str]] = {
    "images": (int, 10_000, "training images, drawn at random, whose distances are computed"),
    "seed": (seed, 0, "seed of that draw"),
    "sigma-min": (float, 0.01, "smallest noise scale"),
    "overlap": (float, 0.5, "share of a noise scale that the next one covers (technique 2)"),
    "scales": (int, None, "number of noise scales, instead of technique 2's"),
    "budget": (int, 1160, "function evaluations per sample, divided among the scales as Langevin steps (technique 4)"),
}


@attrs.frozen
class Suggestion:
    """The result of the rules for a data set."""

    dataset: str
    images: int
    of: int
    shape: tuple[int, ...]
    dimensions: int
    centered: bool
    scaling: str
    sigma_min: float
    sigma_max: float
    scales: int
    steps_per_scale: int
    step_size: float
    snr: float
    variance_ratio: float
    ema: float

    def text(self) -> str:
        """Text for people; the last two lines are commands."""
        subset = f"{self.images} of {self.of}" if self.images < self.of else f"all {self.of}"
        return (
            f"{self.dataset}: {subset} training events, {self.dimensions} dimensions, {self.scaling}\n"
            f"sigma_max  {self.sigma_max:.2f}, the largest distance between two of them (technique 1)\n"
            f"scales     {self.scales}, from {self.sigma_max:.4g} to {self.sigma_min:.4g} (technique 2)\n"
            f"Langevin   {self.steps_per_scale} steps a scale of {self.step_size:.3g} (sigma / sigma_min)^2, "
            f"variance ratio {self.variance_ratio:.3f} (technique 4)\n"
            f"EMA        {self.ema} (technique 5)\n"
            f"train      scoresde train {self.preset} {' '.join(map(shlex.quote, self.changes))} --out runs/tuned\n"
            "sample     scoresde sample --checkpoint runs/tuned --out samples"
        )

    @property
    def preset(self) -> str:
        """The preset to start from: NCSNv2 for images, else a perceptron at all noise scales."""
        return "ve_ncsnv2_cifar10" if len(self.shape) == 3 else "lesson_many_scales"

    @property
    def changes(self) -> list[str]:
        """The rules' numbers as KEY=VALUE of a configuration."""
        corrector = f"ald[snr={self.snr:.4g},n_steps={self.steps_per_scale}]"
        depth = ["model.network.variant=auto"] if len(self.shape) == 3 else []
        return [
            f"data.dataset={self.dataset}",
            f"model.shape=[{','.join(map(str, self.shape))}]",
            f"model.centered={str(self.centered).lower()}",
            f"model.sde=ve[sigma_min={self.sigma_min:.4g},sigma_max={self.sigma_max:.4g}]",
            *depth,
            f"model.network.scales={self.scales}",
            f"training.ema={self.ema}",
            f"sampling.sampler=pc[predictor=none,corrector={corrector},steps={self.scales}]",
        ]


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
        dataset = registry.create("datasets", arguments.dataset)
        try:
            found = _suggest(dataset, arguments)
        except (ValueError, RuntimeError) as error:
            raise UsageError(str(error).partition("\n")[0]) from error
        print(json.dumps(attrs.asdict(found)) if arguments.json else found.text())
        return 0


def _suggest(dataset: Dataset, arguments: argparse.Namespace) -> Suggestion:
    from scoresde_run import Preprocessing
    from ..ncsn import techniques

    events, size = _subset(dataset, arguments.images, arguments.seed)
    x = Preprocessing(centered=arguments.centered)(events.to(arguments.device))
    dimensions, scaling = math.prod(dataset.shape), "on [-1, 1]" if arguments.centered else "on [0, 1]"
    sigma_max = techniques.largest_distance(x)
    scales = arguments.scales
    if scales is None:
        scales = techniques.number_of_scales(dimensions, arguments.sigma_min, sigma_max, arguments.overlap)
    gamma = techniques.geometric_ratio(arguments.sigma_min, sigma_max, scales)
    langevin = techniques.langevin_steps(gamma, arguments.sigma_min, max(1, arguments.budget // scales))
    kept = "as stored" if events.is_floating_point() else scaling
    about = arguments.dataset, len(x), size, tuple(dataset.shape), dimensions, arguments.centered, kept
    steps = langevin.steps, langevin.step_size, langevin.snr, langevin.variance_ratio
    return Suggestion(*about, arguments.sigma_min, sigma_max, scales, *steps, techniques.EMA_RATE)


def _subset(dataset: Dataset, count: int, seed: int) -> tuple[Tensor, int]:
    """Up to ``count`` random training events, as stored, and the number of all."""
    from scoresde_run.commands.events import take
    from scoresde_run.data.batches import order

    events = dataset.open("train")
    return take(events, order(seed, 0, len(events))[:count].tolist()), len(events)
