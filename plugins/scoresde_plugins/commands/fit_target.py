"""``scoresde fit-target``: fits a mixture of factor analysers to a data set, and saves it as a target."""

import argparse
from pathlib import Path

import attrs
from scoresde_core import Command, Registry, UsageError, parse
from scoresde_run import Progress
from scoresde_run.commands.options import add_shared, check_counts, values_of

_NUMBERS = ("components", "factors", "iterations", "floor", "ceiling", "seed")


@attrs.frozen
class FitTargetCommand(Command):
    """Runs EM on all training images, dequantised uniformly to [-1, 1], and measures the fit on the test split.

    The result is a target: ``scoresde-bench --target 'mfa[file=FILE]'``.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("dataset", metavar="DATASET", help="as 'mnist[root=data]' or 'image_folder[path=here]'")
        add("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
        add("--images", type=int, metavar="N", help="use the first N training images only")
        add("--components", type=int, default=32, metavar="X", help="mixture components (default: 32)")
        add("--factors", type=int, default=13, metavar="X", help="factors of each component (default: 13)")
        add("--iterations", type=int, default=60, metavar="X", help="EM iterations (default: 60)")
        text = "smallest noise of a pixel, as a standard deviation on the scale [-1, 1] (default: 0.05)"
        add("--floor", type=float, default=0.05, metavar="X", help=text)
        add("--ceiling", type=float, default=0.2, metavar="X", help="largest noise of a pixel (default: 0.2)")
        add_shared(parser, seed="seed of the dequantisation and of the first guess (default: 0)")

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
                target, report = fit_mfa(images, held_out, progress=show, **values_of(arguments, _NUMBERS))
            except ValueError as error:
                raise UsageError(str(error)) from error
        save(arguments.out, target, report, parse(arguments.dataset).name, asked)
        print(f"{report.components} components of {report.factors} factors, {report.iterations} iterations")
        nats = f"{report.held_out_log_likelihood:.2f} ± {report.held_out_stderr:.2f} nats an image"
        bits = f"{report.held_out_bits_per_dim:.4f} bits/dim ({report.held_out_images} images)"
        print(f"held-out log-likelihood {nats}, {bits}")
        print(f"wrote {arguments.out}: scoresde-bench --target 'mfa[file={arguments.out}]'")
        return 0
