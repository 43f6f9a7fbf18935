"""``scoresde likelihood``: bits per dimension of a data set under a checkpoint or an exact target.

likelihood.yaml     format, version, what was measured and how, bits/dim with its standard error, cost
likelihood.npz      bits_per_dim and nfe (repeats, n), index (n,), with a bound stderr, with --latents latents
parts/              finished batches, until all are finished; the same command resumes with them
"""

import argparse

import attrs
from scoresde_core import Command, Registry, parse_value
from scoresde_run.commands.options import ODE, add_model, add_shared, check_counts


@attrs.frozen
class LikelihoodCommand(Command):
    """Measures the likelihood by the probability flow ODE, or with ``--bound`` ScoreFlow's variational bound.

    Images are read as uint8, dequantised and scaled. For an exact target, its own value is measured too.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        add_shared(parser, "dataset", "split", "download", "known", "out")
        add = parser.add_argument
        add("--images", type=int, metavar="N", help="N images, the same for every seed (default: all)")
        add("--repeats", type=int, default=1, metavar="N", help="passes, each with its own noise")
        text = "average the probability over K draws of dequantisation noise: a tighter bound (default: 1)"
        add("--draws", type=int, default=1, metavar="K", help=text)
        add("--dequantizer", metavar="X", help="of uint8 images (default: uniform)")
        add("--t-min", type=parse_value, metavar="T", help="time of the data (default: as trained)")
        add("--latents", action="store_true", help="also write the latents")
        add("--batch-size", type=int, default=100, metavar="N", help="images at a time (default: 100)")
        add_shared(parser, "discrete", "device", seed="seed of dequantisation, probes, times (default: 0)")
        flow = parser.add_argument_group("by the probability flow ODE")
        text = "the divergence: rademacher (default) or gaussian probes, or exact"
        flow.add_argument("--trace", type=parse_value, metavar="X", help=text)
        flow.add_argument("--probes", type=parse_value, metavar="X", help="probes per image (default: 1)")
        add_shared(flow, *ODE)
        add = parser.add_argument_group("by the variational bound").add_argument
        add("--bound", nargs="?", const="dsm", metavar="FORM", help="the bound, dsm (default) or ssm")
        add("--times", type=parse_value, metavar="N", help="times per image (default: 1000)")
        add("--uniform-times", action="store_true", help="no importance sampling of times")
        add("--no-offset", action="store_true", help="leave out the step from t_min to the data")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        check_counts(arguments, "images", "repeats", "draws", "batch_size")

        from .measured import measure_events  # imports torch, so not before the options are checked

        return measure_events(arguments, registry)
