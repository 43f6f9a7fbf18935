"""``scoresde encode``: latents of events by the probability flow options.ODE, and events decoded from them.

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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, Registry, UsageError, build
from scoresde_run.commands import options
from scoresde_run.commands.events import add_dataset, open_events, read_latents, subset, take, to_model
from scoresde_run.commands.known import add_known, bound, tell_of_events
from scoresde_run.commands.opened import OpenedModel, add_model, open_model
from scoresde_run.results import picture

if TYPE_CHECKING:
    from torch import Tensor
    from scoresde_run import Progress
    from ..numerics.flow import Solver

FORMAT, VERSION = "scoresde-encoding", 1
INDEX, LATENTS = "encoding.yaml", "latents.npz"


@attrs.frozen(eq=False)
class _Coder:
    """Encodes and decodes in batches, with progress."""

    opened: OpenedModel
    solver: Solver
    t_min: float | None
    batch_size: int
    discrete: bool
    denoise: bool
    progress: Progress

    def __call__(self, what: str, x: Tensor, work: Callable[..., Tensor], **how: Any) -> Tensor:
        """``work(model, x)``, which is to encode or to decode."""
        import torch
        from ..numerics.batches import in_batches

        how |= {"t_min": self.t_min, "solver": self.solver, "discrete": self.discrete}
        done = []
        for start, model, chunk in in_batches(self.opened.score, x, self.batch_size):
            self.progress.batch(f"encode: {what}", start // self.batch_size, -(-len(x) // self.batch_size))
            done.append(work(model, chunk.to(self.opened.device), **how).cpu())
        return torch.cat(done)

    def sheet(self, what: str, x: Tensor, columns: int | None = None, **arrays: Tensor) -> _Sheet:
        """The decoded latents ``x``, with more ``arrays``."""
        from ..numerics.encoding import decode

        decoded = self(what, x, decode, denoise=self.denoise)
        return _Sheet({**arrays, "decoded": self.opened.units.to_file(decoded)}, decoded, columns=columns)


@attrs.frozen
class EncodeCommand(Command):
    """Encodes events and decodes them; on request also interpolates and rescales their latents."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        add_dataset(parser)
        add_known(parser)
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
        parser.add_argument("--images", type=int, default=64, metavar="N", help="how many events (default: 64)")
        parser.add_argument("--decode", type=Path, metavar="FILE", help="decode the latents in an .npz file, not data")
        parser.add_argument("--interpolate", type=int, metavar="N", help="events per arc, ends included")
        text = "also decode at these temperatures"
        parser.add_argument("--temperature", type=float, nargs="+", default=[], metavar="T", help=text)
        parser.add_argument("--t-min", type=float, metavar="T", help="time of the data (default: the SDE's)")
        options.add_values(parser, options.ODE)
        text = "remove the noise of t_min from decoded events, not in round trips"
        parser.add_argument("--denoise", action="store_true", help=text)
        options.add_discrete(parser)
        parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="events at a time (default: 100)")
        options.add_seed(parser, "seed of a preset's random weights")
        options.add_device(parser)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        _check(arguments)

        import torch
        from scoresde_run import Progress
        from scoresde_run.machine.device import find_device, keep_freed_memory
        from scoresde_run.machine.files import new_folder
        from scoresde_run.results import request
        from ..numerics.flow import Solver, check_t_min, require_continuous

        solver = build(Solver, options.values_of(arguments, options.ODE), "the solver")
        request.check_place(arguments.out, INDEX)
        keep_freed_memory()
        opened = open_model(arguments, registry, find_device(arguments.device), torch.float32)
        t_min = opened.sde.t_min if arguments.t_min is None else arguments.t_min
        check_t_min(t_min)
        if not arguments.discrete:
            require_continuous(opened.score, "an encoding")
        record = {"format": FORMAT, "version": VERSION, **opened.origin, "sde": repr(opened.sde), "t_min": t_min}
        record |= {"solver": repr(solver), "discrete": arguments.discrete, "denoise": arguments.denoise}
        x, indices = _given(arguments, registry, opened)
        if arguments.known:
            told = tell_of_events(arguments, opened, registry, indices or range(len(x)))
            opened = attrs.evolve(opened, score=bound(opened, told))
        parts = opened.sde, opened.target, opened.plan and opened.plan.network, solver
        asked = request.digits(registry, arguments, *parts, x=x, **opened.named)
        if request.finished(arguments.out, asked, INDEX):
            return 0
        with Progress() as progress:
            how = arguments.batch_size, arguments.discrete, arguments.denoise
            coder = _Coder(opened, solver, t_min, *how, progress)
            latents, files = _coded(arguments, x, indices, coder, record)
            if arguments.interpolate:
                files |= _interpolation(arguments.interpolate, latents, coder)
            files |= _tempered(arguments.temperature, latents, coder)
        record |= {"device": str(opened.device), "torch": str(torch.__version__), "asked": asked}
        with new_folder(arguments.out) as scratch:
            written = [name for stem, sheet in files.items() for name in sheet.write(scratch, stem, opened)]
            (scratch / INDEX).write_text(request.sealed(record, scratch, *written), encoding="utf-8")
        _print(record, latents)
        print(f"wrote {', '.join(str(arguments.out / name) for name in [*written, INDEX])}")
        return 0


@attrs.frozen(eq=False)
class _Sheet:
    """Arrays for an ``.npz``, and events for a picture with ``columns``, each next to the one ``beside`` it."""

    arrays: dict[str, Tensor]
    events: Tensor
    beside: Tensor | None = None
    columns: int | None = None

    def write(self, folder: Path, stem: str, opened: OpenedModel) -> list[str]:
        """Write ``stem.npz`` and ``stem.png``; return the names."""
        import numpy as np

        names = [f"{stem}.npz", f"{stem}.png"]
        np.savez_compressed(folder / names[0], **{name: value.numpy() for name, value in self.arrays.items()})  # type: ignore[arg-type]
        sides = [side for side in (self.beside, self.events) if side is not None]
        picture.draw(folder / names[1], opened.units, *sides, columns=self.columns)
        return names


def _check(arguments: argparse.Namespace) -> None:
    options.check_counts(arguments, "images", "batch_size")
    options.check_fractions(arguments, "t_min")
    if arguments.interpolate is not None and arguments.interpolate < 2:
        raise UsageError(f"--interpolate needs at least the 2 ends, got {arguments.interpolate}")
    if arguments.interpolate is not None and arguments.known:
        raise UsageError("--interpolate goes from one event to another, and --known belongs to events: leave one out")
    wrong = [value for value in arguments.temperature if not value > 0]
    if wrong:
        raise UsageError(f"--temperature must be above 0, got {wrong[0]:g}")
    if arguments.decode and arguments.dataset:
        raise UsageError("--decode reads latents from its file: leave --dataset out")


def _given(arguments: argparse.Namespace, registry: Registry, opened: OpenedModel) -> tuple[Tensor, list[int]]:
    """The events to encode in the model's units with their indices, or the latents to decode."""
    if arguments.decode:
        return read_latents(arguments.decode, opened), []
    events = open_events(arguments.dataset, opened, registry, arguments.split, arguments.download)
    indices = subset(len(events), arguments.images)
    return to_model(take(events, indices), opened), indices


def _coded(
    arguments: argparse.Namespace, x: Tensor, indices: list[int], coder: _Coder, record: dict[str, Any]
) -> tuple[Tensor, dict[str, _Sheet]]:
    """The latents of events ``x`` and their round trip; with ``--decode``, ``x`` are the latents."""
    import torch
    from ..numerics.encoding import decode, encode

    if arguments.decode:
        record |= {"decoded": str(arguments.decode), "images": len(x)}
        return x, {"decoded": coder.sheet("decoding", x)}
    opened = coder.opened
    latents = coder("encoding", x, encode)
    decoded = coder("decoding", latents, decode)
    error = (decoded - x).flatten(1).square().mean(1).sqrt()
    record |= {"dataset": arguments.dataset or opened.data, "split": arguments.split, "images": len(indices)}
    record |= {"round_trip_error": {"mean": float(f"{error.mean():.4g}"), "largest": float(f"{error.max():.4g}")}}
    write = opened.units.to_file
    arrays = {"latents": latents, "decoded": write(decoded), "error": error, "index": torch.tensor(indices)}
    return latents, {"latents": _Sheet({**arrays, "events": write(x)}, decoded, beside=x)}


def _interpolation(count: int, latents: Tensor, coder: _Coder) -> dict[str, _Sheet]:
    """Decode arcs between pairs of latents, one row each."""
    import torch
    from ..numerics.encoding import interpolate

    if len(latents) < 2:
        raise UsageError(f"--interpolate needs at least two events, got {len(latents)}")
    pairs = len(latents) // 2
    ends = latents[0 : 2 * pairs : 2], latents[1 : 2 * pairs : 2]
    arcs = interpolate(*ends, torch.linspace(0, 1, count), coder.opened.sde.prior).transpose(0, 1)
    flat = arcs.flatten(0, 1)
    return {"interpolation": coder.sheet("interpolating", flat, count, latents=flat)}


def _tempered(temperatures: list[float], latents: Tensor, coder: _Coder) -> dict[str, _Sheet]:
    """Decode all latents at other temperatures."""
    from ..numerics.encoding import temper

    moved = {value: temper(latents, value, coder.opened.sde.prior) for value in temperatures}
    return {f"temperature_{value:g}": coder.sheet(f"temperature {value:g}", x) for value, x in moved.items()}


def _print(record: dict[str, Any], latents: Tensor) -> None:
    spread = float(latents.double().std())
    print(f"{len(latents)} latents of shape {list(latents.shape[1:])}, standard deviation {spread:.4g}")
    if "round_trip_error" in record:
        error = record["round_trip_error"]
        print(f"round trip: root mean square error {error['mean']:.3g} an event, {error['largest']:.3g} the largest")
