"""What ``scoresde encode`` does once its options are checked."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from scoresde_core import Registry, UsageError, build
from scoresde_core.score import in_batches
from scoresde_run import Progress, Row
from scoresde_run.commands.events import open_events, read_latents, subset, take
from scoresde_run.commands.known import bound, tell_of_events
from scoresde_run.commands.opened import OpenedModel, open_model
from scoresde_run.commands.options import ODE, values_of
from scoresde_run.machine.device import find_device, keep_freed_memory
from scoresde_run.results import picture, request
from ..numerics.encoding import decode, encode, interpolate, temper
from ..numerics.flow import Solver, require_continuous

INDEX = "encoding.yaml"
_Sheet = tuple[dict[str, Tensor], list[Tensor], int | None]
"""Arrays for an ``.npz``, and the events of a picture, side by side in so many columns."""


def encode_events(arguments: Namespace, registry: Registry) -> int:
    """Encode and decode what the command asks for, and write it; return the exit code."""
    solver = build(Solver, values_of(arguments, ODE), "the solver")
    request.check_place(arguments.out, INDEX)
    keep_freed_memory()
    opened = open_model(arguments, registry, find_device(arguments.device))
    t_min = opened.sde.t_min if arguments.t_min is None else arguments.t_min
    if not arguments.discrete:
        require_continuous(opened.score, "an encoding")
    record = {"format": "scoresde-encoding", "version": 1, **opened.origin, "sde": repr(opened.sde), "t_min": t_min}
    record |= {"solver": repr(solver), "discrete": arguments.discrete, "denoise": arguments.denoise}
    if arguments.decode:
        x, indices = read_latents(arguments.decode, opened), []
    else:
        events = open_events(arguments.dataset, opened)
        indices = subset(len(events), arguments.images)
        x = opened.units.encode(take(events, indices)).float()
    if arguments.known:
        opened = attrs.evolve(opened, score=bound(opened, tell_of_events(opened, indices or range(len(x)))))
    asked = request.digits(registry, arguments, *opened.parts, solver, x=x, **opened.named)
    if request.finished(arguments.out, asked, INDEX):
        return 0
    how: dict[str, Any] = {"t_min": t_min, "solver": solver, "discrete": arguments.discrete}
    with Progress() as progress:

        def code(what: str, x: Tensor, work: Callable[..., Tensor]) -> Tensor:
            """``x`` under ``work``, which is to encode or to decode, in batches."""
            size, done = arguments.batch_size, []
            for start, model, chunk in in_batches(opened.score, x, size):
                progress.batch(f"encode: {what}", start // size, -(-len(x) // size))
                done.append(work(model, chunk.to(opened.device), **how).cpu())
            return torch.cat(done)

        latents = x if arguments.decode else code("encoding", x, encode)
        sheets = dict(_sheets(opened, code, x, latents, indices, record))
    record |= {"device": str(opened.device), "torch": str(torch.__version__), "asked": asked}
    written = request.write(arguments.out, INDEX, record, lambda folder: _write(folder, opened, sheets))
    spread = float(latents.double().std())
    print(f"{len(latents)} latents of shape {list(latents.shape[1:])}, standard deviation {spread:.4g}")
    if error := record.get("round_trip_error"):
        print(f"round trip: root mean square error {error['mean']:.3g} an event, {error['largest']:.3g} the largest")
    print(written)
    return 0


def _sheets(
    opened: OpenedModel, code: Callable[..., Tensor], x: Tensor, latents: Tensor, indices: list[int], record: Row
) -> Iterator[tuple[str, _Sheet]]:
    """What is written, by its name; ``record`` learns of what was coded."""
    arguments, prior, units = opened.arguments, opened.sde.prior, opened.units

    def decoded(what: str, z: Tensor, columns: int | None = None, **arrays: Tensor) -> _Sheet:
        found = code(what, z, partial(decode, denoise=arguments.denoise))
        return {**arrays, "decoded": units.to_file(found)}, [found], columns

    if arguments.decode:
        record |= {"decoded": str(arguments.decode), "images": len(x)}
        yield "decoded", decoded("decoding", x)
    else:
        back = code("decoding", latents, decode)
        error = (back - x).flatten(1).square().mean(1).sqrt()
        record |= {"dataset": arguments.dataset or opened.data, "split": arguments.split, "images": len(x)}
        numbers = {"mean": error.mean(), "largest": error.max()}
        record["round_trip_error"] = {name: float(f"{value:.4g}") for name, value in numbers.items()}
        arrays = {"latents": latents, "error": error, "index": torch.tensor(indices)}
        yield "latents", (arrays | {"decoded": units.to_file(back), "events": units.to_file(x)}, [x, back], None)
    if count := arguments.interpolate:
        if len(latents) < 2:
            raise UsageError(f"--interpolate needs at least two events, got {len(latents)}")
        last = latents[1::2]
        arcs = interpolate(latents[::2][: len(last)], last, torch.linspace(0, 1, count), prior)
        flat = arcs.transpose(0, 1).flatten(0, 1)
        yield "interpolation", decoded("interpolating", flat, count, latents=flat)
    for value in arguments.temperature:
        yield f"temperature_{value:g}", decoded(f"temperature {value:g}", temper(latents, value, prior))


def _write(folder: Path, opened: OpenedModel, sheets: dict[str, _Sheet]) -> list[str]:
    for stem, (arrays, sides, columns) in sheets.items():
        np.savez_compressed(folder / f"{stem}.npz", **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
        picture.draw(folder / f"{stem}.png", opened.units, *sides, columns=columns)
    return [f"{stem}.{suffix}" for stem in sheets for suffix in ("npz", "png")]
