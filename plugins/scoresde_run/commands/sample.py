"""``scoresde sample``: samples of a checkpoint or an exact target, as a PNG grid and an ``.npz``.

The folder has ``samples.npz``, ``samples.png`` with the first 256, and ``sampling.yaml``, the record of how they were
made. Images are ``samples`` (uint8, NHWC, as FID tools read them), rounded to the nearest value; the published code
truncates, which darkens images by half a value. Other events are ``floats`` (N, ...) in the numbers of the data. What a
``--condition`` knows of a sample is ``observed``, and stands next to the sample in the picture.
"""

import argparse

import attrs
from scoresde_core import Command, Registry, UsageError
from .options import add_model, add_shared, check_counts


@attrs.frozen
class SampleCommand(Command):
    """Draws samples of a model or an exact target: ``scoresde sample --checkpoint RUN --out DIR``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        add_shared(parser, "out")
        add = parser.add_argument
        add("--n", type=int, metavar="N", help="number of samples (default: the configuration's)")
        add("--sampler", metavar="X", help="such as 'pc[predictor=ddim,steps=50]' (default: the configuration's)")
        add("--steps", type=int, metavar="N", help="number of steps of the sampler")
        add("--warm-start", metavar="X", help="an exact target whose flow begins the run, such as mnist_mfa")
        add("--until", type=float, metavar="T", help="time at which the sampler then goes on (default: 0.3)")
        add_shared(parser, seed="seed of the noise (default: 0)")
        add("--batch-size", type=int, metavar="N", help="samples at a time (default: all)")
        add_shared(parser, "device", "dtype", "precision")
        add("--keep-floats", action="store_true", help="also write the samples before rounding, NCHW")
        given = parser.add_argument_group("controllable generation")
        add_shared(given, "known")
        add = given.add_argument
        add("--guidance", metavar="X", help="away from another score, such as 'cfg[scale=2]'")
        add("--condition", metavar="X", help="such as 'inpaint[mask=box]', colorize, linear, class")
        text = "source of the known part: a data set, an .npz file, an image, or a folder of images"
        add("--observe", metavar="X", help=text)
        text = "which of these events; several are cycled over the samples (default: in their order)"
        add("--index", type=int, nargs="+", metavar="I", help=text)
        add_shared(given, "split", "download")
        add("--start-from", metavar="X", help="events to start from, noised, in place of the prior: as --observe")
        add("--t-start", type=float, metavar="T", help="time of that noise (default: 0.5)")
        add("--rounds", type=int, default=1, metavar="N", help="repeats of a predictor step (RePaint)")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        _check(arguments)

        from .drawn import draw_samples  # imports torch, which takes time, so not before the options are checked

        return draw_samples(arguments, registry)


def _check(arguments: argparse.Namespace) -> None:
    check_counts(arguments, "n", "steps", "batch_size", "rounds")
    if arguments.condition is None and (arguments.observe or arguments.rounds > 1):
        raise UsageError("--observe and --rounds need a --condition: see 'scoresde list conditions'")
    if arguments.index and not (arguments.condition or arguments.start_from):
        raise UsageError("--index needs a --condition or --start-from, whose events it chooses")
    if arguments.until is not None and arguments.warm_start is None:
        raise UsageError("--until ends a warm start: give --warm-start X as well")
    if arguments.t_start is not None and arguments.start_from is None:
        raise UsageError("--t-start needs events to start from: give --start-from X")
    if arguments.precision != "float32" and (arguments.target or arguments.dtype != "float32"):
        why = "an exact score has no network" if arguments.target else f"the network computes in {arguments.dtype}"
        raise UsageError(f"--precision {arguments.precision} has no effect: {why}; leave it out")
