"""``scoresde encode``: latents of events by the probability flow ODE, and events decoded from them.

    encoding.yaml         format, version, what was encoded and how, the error of the round trip
    latents.npz           latents (n, ...), index, events and decoded events (in the numbers of the data, images in the
                          model's range), and the root mean square error of each round trip on the model's scale
    latents.png           every event next to its decoded event
    interpolation.*       with --interpolate, great arcs between the first and second latent, third and fourth, ...
    temperature_T.*       with --temperature, events decoded at T times the latents' distance from the prior's mean

With ``--decode FILE`` the latents are read from a file, and there is no round trip.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, Registry, UsageError, build
from scoresde_run.commands.events import open_events, read_latents, subset, take, to_model
from scoresde_run.commands.known import bound, tell_of_events
from scoresde_run.commands.opened import OpenedModel, add_model, open_model
from scoresde_run.commands.options import ODE, add_shared, check_counts, check_fractions, values_of
from scoresde_run.results import picture

if TYPE_CHECKING:
    from torch import Tensor
    from scoresde_run import Progress

FORMAT, VERSION = "scoresde-encoding", 1
INDEX = "encoding.yaml"


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

        import torch
        from scoresde_run import Progress
        from scoresde_run.machine.device import find_device, keep_freed_memory
        from scoresde_run.results import request
        from ..numerics.flow import Solver, require_continuous

        solver = build(Solver, values_of(arguments, ODE), "the solver")
        request.check_place(arguments.out, INDEX)
        keep_freed_memory()
        opened = open_model(arguments, registry, find_device(arguments.device))
        t_min = opened.sde.t_min if arguments.t_min is None else arguments.t_min
        if not arguments.discrete:
            require_continuous(opened.score, "an encoding")
        record = {"format": FORMAT, "version": VERSION, **opened.origin, "sde": repr(opened.sde), "t_min": t_min}
        record |= {"solver": repr(solver), "discrete": arguments.discrete, "denoise": arguments.denoise}
        if arguments.decode:
            x, indices = read_latents(arguments.decode, opened), []
        else:
            events = open_events(arguments.dataset, opened)
            indices = subset(len(events), arguments.images)
            x = to_model(take(events, indices), opened)
        if arguments.known:
            opened = attrs.evolve(opened, score=bound(opened, tell_of_events(opened, indices or range(len(x)))))
        asked = request.digits(registry, arguments, *opened.parts, solver, x=x, **opened.named)
        if request.finished(arguments.out, asked, INDEX):
            return 0
        how = {"t_min": t_min, "solver": solver, "discrete": arguments.discrete}
        with Progress() as progress:
            coded = _Coder(opened, how, progress)
            latents = x if arguments.decode else coded("encoding", x, "encode")
            sheets = dict(coded.sheets(x, latents, indices, record))
        record |= {"device": str(opened.device), "torch": str(torch.__version__), "asked": asked}
        written = request.write(arguments.out, INDEX, record, lambda folder: _write(folder, opened, sheets))
        spread = float(latents.double().std())
        print(f"{len(latents)} latents of shape {list(latents.shape[1:])}, standard deviation {spread:.4g}")
        if error := record.get("round_trip_error"):
            numbers = f"{error['mean']:.3g} an event, {error['largest']:.3g} the largest"
            print(f"round trip: root mean square error {numbers}")
        print(written)
        return 0


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


_Sheet = tuple[dict[str, "Tensor"], list["Tensor"], int | None]
"""Arrays for an ``.npz``, and the events of a picture, side by side in so many columns."""


@attrs.frozen(eq=False)
class _Coder:
    """Encodes and decodes in batches, with progress."""

    opened: OpenedModel
    how: dict[str, Any]
    progress: Progress

    def __call__(self, what: str, x: Tensor, work: str = "decode", **how: Any) -> Tensor:
        """``x`` under ``work``, which is to encode or to decode."""
        import torch
        from ..numerics import encoding
        from ..numerics.batches import in_batches

        size, done = self.opened.arguments.batch_size, []
        for start, model, chunk in in_batches(self.opened.score, x, size):
            self.progress.batch(f"encode: {what}", start // size, -(-len(x) // size))
            done.append(getattr(encoding, work)(model, chunk.to(self.opened.device), **self.how, **how).cpu())
        return torch.cat(done)

    def decoded(self, what: str, x: Tensor, columns: int | None = None, **arrays: Tensor) -> _Sheet:
        """The sheet of latents ``x`` decoded, with more ``arrays``."""
        found = self(what, x, denoise=self.opened.arguments.denoise)
        return {**arrays, "decoded": self.opened.units.to_file(found)}, [found], columns

    def sheets(
        self, x: Tensor, latents: Tensor, indices: list[int], record: dict[str, Any]
    ) -> Iterator[tuple[str, _Sheet]]:
        """What is written, by its name; ``record`` learns of what was coded."""
        import torch
        from ..numerics.encoding import interpolate, temper

        arguments, prior, units = self.opened.arguments, self.opened.sde.prior, self.opened.units
        if arguments.decode:
            record |= {"decoded": str(arguments.decode), "images": len(x)}
            yield "decoded", self.decoded("decoding", x)
        else:
            back = self("decoding", latents)
            error = (back - x).flatten(1).square().mean(1).sqrt()
            record |= {"dataset": arguments.dataset or self.opened.data, "split": arguments.split, "images": len(x)}
            numbers = {"mean": error.mean(), "largest": error.max()}
            record["round_trip_error"] = {name: float(f"{value:.4g}") for name, value in numbers.items()}
            arrays = {"latents": latents, "error": error, "index": torch.tensor(indices)}
            arrays |= {"decoded": units.to_file(back), "events": units.to_file(x)}
            yield "latents", (arrays, [x, back], None)
        if count := arguments.interpolate:
            if len(latents) < 2:
                raise UsageError(f"--interpolate needs at least two events, got {len(latents)}")
            last = latents[1::2]
            arcs = interpolate(latents[::2][: len(last)], last, torch.linspace(0, 1, count), prior)
            flat = arcs.transpose(0, 1).flatten(0, 1)
            yield "interpolation", self.decoded("interpolating", flat, count, latents=flat)
        for value in arguments.temperature:
            yield f"temperature_{value:g}", self.decoded(f"temperature {value:g}", temper(latents, value, prior))


def _write(folder: Path, opened: OpenedModel, sheets: dict[str, _Sheet]) -> list[str]:
    import numpy as np

    for stem, (arrays, sides, columns) in sheets.items():
        np.savez_compressed(folder / f"{stem}.npz", **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
        picture.draw(folder / f"{stem}.png", opened.units, *sides, columns=columns)
    return [f"{stem}.{suffix}" for stem in sheets for suffix in ("npz", "png")]
