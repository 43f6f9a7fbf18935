"""What ``scoresde likelihood`` does once its options are checked: its batches are files, as those of an evaluation."""

import io
import math
import shutil
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import attrs
import numpy as np
import torch
from scoresde_core import OURS, Registry, Target, UsageError, build
from scoresde_run import Fingerprint, Processes, Progress
from scoresde_run.commands.events import find_events, open_events
from scoresde_run.commands.known import bound, tell_of_events
from scoresde_run.commands.opened import OpenedModel, open_model
from scoresde_run.commands.options import ODE, values_of
from scoresde_run.machine import document, files
from scoresde_run.results import request
from scoresde_run.results.fingerprint import placeless
from ..evaluate.measure import MeasuredModel, Share, compute, run_together, together
from ..evaluate.measures import SplitLikelihood
from ..likelihood.bits_per_dim import BitsPerDim, Measurement
from ..likelihood.likelihood import BoundDensity, Density, FlowDensity, trained_t_min

INDEX, ARRAYS, PARTS = "likelihood.yaml", "likelihood.npz", "parts"
_NAMES = {"values": "bits_per_dim", "truth": "exact", "latent": "latents"}


def measure_events(arguments: Namespace, registry: Registry) -> int:
    """Measure the likelihood that the command asks for, and write it; return the exit code."""
    return run_together(arguments.device, partial(_prepare, arguments, registry, _density(arguments)))


def _density(arguments: Namespace) -> Density:
    """Create the density that the options choose; an option of the other density is a :class:`UsageError`."""
    flow, bound, common = (values_of(arguments, names) for names in (["trace", "probes", *ODE], ["times"], ["t_min"]))
    left_out = {"importance": arguments.uniform_times, "offset": arguments.no_offset}
    bound |= {name: False for name, given in left_out.items() if given}
    common |= {"discrete": True} if arguments.discrete else {}
    if arguments.bound is None and bound:
        raise UsageError("--times, --uniform-times and --no-offset belong to the variational bound: add --bound")
    if arguments.bound is not None and (flow or arguments.latents):
        names = ", ".join(f"--{name}" for name in [*flow, *["latents"] * arguments.latents])
        raise UsageError(f"the bound solves no ODE: leave {names} out")
    if arguments.bound is not None and arguments.draws > 1:
        raise UsageError("--draws averages densities, and the variational bound is none: leave one of them out")
    if arguments.bound is None:
        return build(FlowDensity, {**flow, **common}, "the likelihood")  # type: ignore[no-any-return]
    return build(BoundDensity, {"form": arguments.bound, **bound, **common}, "the bound")  # type: ignore[no-any-return]


def _prepare(
    arguments: Namespace, registry: Registry, density: Density, processes: Processes, stack: ExitStack
) -> Callable[[], int]:
    out = arguments.out
    if not ((out / files.LOCK).is_file() and {path.name for path in out.glob("[!.]*")} <= {PARTS, ARRAYS, INDEX}):
        files.check_new(out)
    dequantizer = registry.create("dequantizers", arguments.dequantizer or f"{OURS}:uniform")
    opened = open_model(arguments, registry, processes.device)
    density.check(opened.score)
    if arguments.t_min is None:
        density = attrs.evolve(density, t_min=trained_t_min(opened.plan, registry))  # type: ignore[misc]
    fingerprint = Fingerprint(registry)
    share, truth = _share(opened)
    if arguments.draws > 1 and share.batch(0)[1].is_floating_point():
        raise UsageError("--draws averages over dequantisation noise, and these data are floats: leave it out")
    dataset = share.unread(find_events(arguments.dataset, opened))
    asked = SplitLikelihood(
        share, opened.sde, density, dequantizer, arguments.repeats, arguments.seed, opened.units, truth,
        arguments.latents, arguments.draws, fingerprint=fingerprint, parts=(density, dequantizer, truth, dataset),
    )  # fmt: skip
    plan = opened.plan
    parts = {"sde": opened.sde, "network": plan and plan.network, "model": plan and attrs.asdict(plan.config.model)}
    identity = {**opened.origin, **fingerprint.describe(parts), **placeless(fingerprint.depends(parts))}
    identity["torch"] = str(torch.__version__)
    model = MeasuredModel(opened.score, processes.device, torch.float32, identity, out / PARTS)
    digits = request.digits(registry, arguments, measure=model.parts_of(asked).folder.name)
    done = (out / INDEX).is_file() and request.finished(out, digits, INDEX)
    processes.wait()  # until every process has checked the folder
    if processes.first:
        stack.enter_context(files.locked(out, "measuring"))
        files.clean(out)
    progress = stack.enter_context(Progress(processes.first))
    if done:
        # A kill may have left its batches.
        record = document.load((out / INDEX).read_text(encoding="utf-8"))
        return lambda: _conclude(record, arguments) if processes.first else 0
    return lambda: _measure(arguments, _protocol(arguments, opened, asked), asked, model, processes, progress, digits)


def _share(opened: OpenedModel) -> tuple[Share, Target | None]:
    """The events, with what is known of them, and the law of these if it is exact."""
    arguments, truth = opened.arguments, opened.target
    source = {"dataset": arguments.dataset or opened.data, "split": arguments.split}
    share = Share(open_events(arguments.dataset, opened), arguments.images, arguments.batch_size, source)
    known = tell_of_events(opened, share.indices)
    bound(opened, known)  # which checks it
    share.tell(known)
    if known and truth:
        classes = known["class"].tolist()
        truth = truth.component(classes[0]) if len({*classes}) == 1 else None
    return share, truth


def _protocol(arguments: Namespace, opened: OpenedModel, asked: SplitLikelihood) -> dict[str, Any]:
    share, units, floats = asked.share, asked.units, asked.share.batch(0)[1].is_floating_point()
    head = {"format": "scoresde-likelihood", "version": 1, **opened.origin, "sde": repr(opened.sde)}
    data = {**share.source, "of": len(share.events), "images": len(share.indices), "repeats": asked.repeats}
    data |= {"draws": asked.draws} if asked.draws > 1 else {}
    data |= {"seed": asked.seed, "batch_size": share.batch_size}
    data |= {"dequantizer": "none, the data are floats" if floats else arguments.dequantizer or "uniform"}
    data |= {"range": list(units.range)} if not floats else {}
    data |= {"shift": list(units.shift), "scale": list(units.scale)}
    how = {"density": asked.density.name, **attrs.asdict(asked.density)}  # type: ignore[arg-type]
    return {**head, **data, **how, "device": str(opened.device), "torch": str(torch.__version__)}


def _measure(
    arguments: Namespace, protocol: dict[str, Any], asked: SplitLikelihood, model: MeasuredModel,
    processes: Processes, progress: Progress, digits: str,
) -> int:  # fmt: skip
    """Compute the missing batches; then process 0 writes the result."""
    out = arguments.out
    for failure in compute([asked], model, processes, progress, str(out)).values():
        raise failure

    def conclude() -> None:
        parts = list(model.parts_of(asked).all(asked.count))
        found = asked.joined(parts)
        arrays: dict[str, Any] = {_NAMES.get(name, name): value.numpy() for name, value in found.tensors.items()}
        np.savez_compressed(file := io.BytesIO(), index=np.array(asked.share.indices), **arrays)
        files.write(out / ARRAYS, file.getvalue())
        seconds = round(sum(part.record["seconds"] for part in parts), 3)
        record = {**protocol, **_summary(found), "seconds": seconds, "asked": digits}
        files.write(out / INDEX, request.sealed(record, out, ARRAYS))
        progress.stop()
        _conclude(record, arguments)

    together(processes, conclude if processes.first else lambda: None)
    return 0


def _summary(found: Measurement) -> dict[str, Any]:
    def plain(bits: BitsPerDim) -> dict[str, float | None]:
        return {"mean": round(bits.mean, 8), "stderr": None if math.isnan(bits.stderr) else round(bits.stderr, 8)}

    result: dict[str, Any] = {"bits_per_dim": plain(found.bits)}
    if found.exact is not None and found.gap is not None:
        result |= {"exact_bits_per_dim": plain(found.exact), "bits_above_exact": plain(found.gap)}
    if found.stderr is not None:
        # Draws of different images are independent, so the squares of their errors add up.
        result["stderr_of_draws"] = round(float(found.stderr.square().sum().sqrt()) / found.stderr.numel(), 8)
    return {**result, "nfe": round(float(found.nfe.double().mean()), 3)}


def _conclude(record: dict[str, Any], arguments: Namespace) -> int:
    """Remove the batches of a finished measurement, and print it."""

    def text(name: str, sign: str = "") -> str:
        number = record[name]
        stderr = "" if number["stderr"] is None else f" ± {number['stderr']:.4f}"
        return f"{number['mean']:{sign}.4f}{stderr} bits/dim"

    shutil.rmtree(arguments.out / PARTS, ignore_errors=True)
    what = "at most " if arguments.bound and not arguments.no_offset else ""
    images = f"{record['images']} images" + (f" x {arguments.repeats}" if arguments.repeats > 1 else "")
    print(f"{what}{text('bits_per_dim')}, {images}, {record['nfe']:g} function evaluations each")
    if "exact_bits_per_dim" in record:
        print(f"exact: {text('exact_bits_per_dim')}; above it by {text('bits_above_exact', '+')}")
    print(f"wrote {arguments.out / INDEX}, {arguments.out / ARRAYS}")
    return 0
