"""``scoresde fit-target``: fits a mixture of factor analysers to a data set, and saves it as a target."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import Command, Registry, UsageError, parse
from scoresde_run import Progress
from scoresde_run.commands.options import check_counts, seed

_NUMBERS: dict[str, tuple[Callable[[str], Any], float, str]] = {
    "components": (int, 32, "mixture components"),
    "factors": (int, 13, "factors of each component"),
    "iterations": (int, 60, "EM iterations"),
    "floor": (float, 0.05, "smallest noise of a pixel, as a standard deviation on the scale [-1, 1]"),
    "ceiling": (float, 0.2, "largest noise of a pixel"),
    "seed": (seed, 0, "seed of the dequantisation and of the first guess"),
}


@attrs.frozen
class FitTargetCommand(Command):
    """Runs EM on all training images, dequantised uniformly to [-1, 1], and measures the fit on the test split.

    The result is a target: ``scoresde-bench --target 'mfa[file=FILE]'``.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", metavar="DATASET", help="as 'mnist[root=data]' or 'image_folder[path=here]'")
        parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
        parser.add_argument("--images", type=int, metavar="N", help="use the first N training images only")
        for name, (kind, default, text) in _NUMBERS.items():
            parser.add_argument(
                f"--{name}", type=kind, default=default, metavar="X", help=f"{text} (default: {default})"
            )

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        from scoresde_run.data.dataset import content_hash
        from scoresde_run.results import request
        from ..targets.mfa_fit import fit_mfa, save

        request.check_place(arguments.out)
        check_counts(arguments, "images")
        dataset = registry.create("datasets", arguments.dataset)
        images, held_out = dataset.load("train")[: arguments.images], dataset.load("test")
        hashes = content_hash(images), content_hash(held_out)
        asked = request.digits(registry, arguments, dataset, hashes=hashes)
        if request.finished(arguments.out, asked):
            return 0
        with Progress() as progress:

            def show(iteration: int, of: int, log_likelihood: float) -> None:
                text = f"{log_likelihood:.3f} nats an image"
                progress.show(f"EM, {text}", iteration, of, f"iteration {iteration} of {of}: {text}", due=True)

            try:
                numbers = {name: getattr(arguments, name) for name in _NUMBERS}
                target, report = fit_mfa(images, held_out, progress=show, **numbers)
            except ValueError as error:
                raise UsageError(str(error)) from error
        save(arguments.out, target, report, parse(arguments.dataset).name, asked)
        print(
            f"{report.components} components of {report.factors} factors, {report.iterations} iterations\n"
            f"held-out log-likelihood {report.held_out_log_likelihood:.2f} ± {report.held_out_stderr:.2f} nats "
            f"an image, {report.held_out_bits_per_dim:.4f} bits/dim ({report.held_out_images} images)\n"
            f"wrote {arguments.out}: scoresde-bench --target 'mfa[file={arguments.out}]'"
        )
        return 0
