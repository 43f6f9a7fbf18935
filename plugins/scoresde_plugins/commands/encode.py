"""``scoresde encode``: latents of events by the probability flow ODE, and events decoded from them.

    encoding.yaml         format, version, what was encoded and how, the error of the round trip
    latents.npz           latents (n, ...), index, events and decoded events (in the numbers of the data, images in the
                          model's range), and the root mean square error of each round trip on the model's scale
    latents.png           every event next to its decoded event
    interpolation.*       with --interpolate, great arcs between the first and second latent, third and fourth, ...
    temperature_T.*       with --temperature, events decoded at T times the latents' distance from the prior's mean

With ``--decode FILE`` the latents are read from a file, and there is no round trip.
"""

import argparse
from pathlib import Path

import attrs
from scoresde_core import Command, Registry, UsageError
from scoresde_run.commands.options import ODE, add_model, add_shared, check_counts, check_fractions


@attrs.frozen
class EncodeCommand(Command):
    """Encodes events and decodes them; on request also interpolates and rescales their latents."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        add_shared(parser, "dataset", "split", "download", "known", "out")
        add = parser.add_argument
        add("--images", type=int, default=64, metavar="N", help="how many events (default: 64)")
        add("--decode", type=Path, metavar="FILE", help="decode the latents in an .npz file, not data")
        add("--interpolate", type=int, metavar="N", help="events per arc, ends included")
        add("--temperature", type=float, nargs="+", default=[], metavar="T", help="also decode at these temperatures")
        add("--t-min", type=float, metavar="T", help="time of the data (default: the SDE's)")
        add_shared(parser, *ODE)
        add("--denoise", action="store_true", help="remove the noise of t_min from decoded events, not in round trips")
        add_shared(parser, "discrete", "device", seed="seed of a preset's random weights (default: 0)")
        add("--batch-size", type=int, default=100, metavar="N", help="events at a time (default: 100)")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        _check(arguments)

        from .encoded import encode_events  # imports torch, so not before the options are checked

        return encode_events(arguments, registry)


def _check(arguments: argparse.Namespace) -> None:
    check_counts(arguments, "images", "batch_size")
    check_fractions(arguments, "t_min")
    if arguments.interpolate is not None and arguments.interpolate < 2:
        raise UsageError(f"--interpolate needs at least the 2 ends, got {arguments.interpolate}")
    if arguments.interpolate is not None and arguments.known:
        raise UsageError("--interpolate goes from one event to another, and --known belongs to events: leave one out")
    for value in arguments.temperature:
        if not value > 0:
            raise UsageError(f"--temperature must be above 0, got {value:g}")
    if arguments.decode and arguments.dataset:
        raise UsageError("--decode reads latents from its file: leave --dataset out")
