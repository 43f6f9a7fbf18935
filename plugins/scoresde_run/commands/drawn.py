"""What ``scoresde sample`` does once its options are checked."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from scoresde_core import DATA, Registry, Sampler, ScoreSDEError, UsageError, parameters
from scoresde_core import sampler as sampling
from ..machine.device import find_device, keep_freed_memory, slow_precision
from ..machine.progress import Progress, is_tenth, step_observer
from ..results import picture, request
from ..results.picture import to_pixels
from ..sampling.condition import ConditionedSampler, Observation
from ..sampling.guidance import GuidedSampler
from ..sampling.samples import diverged, root_mean_square, smallest_batch
from ..sampling.start import start_from
from .events import open_events, take
from .known import tell
from .opened import OpenedModel, open_model

INDEX = "sampling.yaml"
_TOLD = ("known", "guidance", "start_from", "t_start")  # options that are recorded as typed


def draw_samples(arguments: Namespace, registry: Registry) -> int:
    """Draw the samples that the command asks for, and write them; return the exit code."""
    request.check_place(arguments.out, INDEX)
    keep_freed_memory()
    opened = open_model(arguments, registry, find_device(arguments.device))
    n, device, dtype = arguments.n or opened.n, opened.device, getattr(torch, arguments.dtype)
    model = tell(opened, n)
    observation, observed = _observe(opened, n)
    plain, sampler = _samplers(opened, observation)
    if reason := sampling.skip(sampler, opened.sde, opened.shape) or sampler.skip_model(model):
        raise UsageError(reason)
    inputs: dict[str, Any] = {"observation": observation, **opened.named}
    how: dict[str, Any] = {"seed": arguments.seed, "batch_size": arguments.batch_size, "device": device, "dtype": dtype}
    if arguments.start_from is not None:
        x = _chosen(arguments.start_from, opened, n).to(device, dtype)
        model, latent = start_from(model, x, 0.5 if arguments.t_start is None else arguments.t_start, arguments.seed)
        inputs["latent"] = how["latent"] = latent
    asked = request.digits(registry, arguments, sampler, *opened.parts, **inputs)
    if request.finished(arguments.out, asked, INDEX):
        return 0
    caveat = sampler.caveat(opened.shape, smallest_batch(n, arguments.batch_size))
    for warning in filter(None, (caveat, slow_precision(device, arguments.precision))):
        print(f"warning: {warning}", file=sys.stderr)
    with Progress() as progress:
        show = _steps(progress, -(-n // (arguments.batch_size or n)))
        drawn = sampling.sample(model, sampler, n, observe=step_observer(registry, show), **how)
    _check_samples(drawn.x, opened, plain)
    about = {**opened.origin, "sampler": repr(plain), "sde": repr(opened.sde), **observed}
    about |= {name: getattr(arguments, name) for name in _TOLD if getattr(arguments, name)}
    about |= {"seed": arguments.seed, "n": n, "batch_size": min(arguments.batch_size or n, n), "asked": asked}
    about |= {} if arguments.precision == "float32" else {"precision": arguments.precision}
    about |= {"dtype": arguments.dtype, "device": str(device), "torch": str(torch.__version__)}
    about |= {"nfe": drawn.nfe, "calls": drawn.calls, "seconds": round(drawn.seconds, 3)}

    def write(folder: Path) -> list[str]:
        note = _write(folder, opened, drawn.x.cpu(), _known(observation, opened, n))
        about.update({} if note is None else {"picture": note})
        return ["samples.npz", "samples.png"]

    written = request.write(arguments.out, INDEX, about, write)
    guided = f", guidance {arguments.guidance}" if arguments.guidance else ""
    print(f"sampler: {registry.typed(plain) or repr(plain)}{guided}")
    print(f"{n} samples of shape {list(opened.shape)}, {drawn.nfe:g} function evaluations each, {drawn.seconds:.1f} s")
    if "picture" in about:
        print(f"the picture shows {about['picture']}")
    print(written)
    return 0


def _check_samples(x: Tensor, opened: OpenedModel, sampler: Sampler) -> None:
    if x.shape[1:] != opened.shape:
        raise ScoreSDEError(f"{sampler!r} gave samples of shape {tuple(x.shape[1:])}, expected {opened.shape}")
    scale = None if opened.target is None else root_mean_square(opened.target.sample(256))
    if lost := diverged(x, scale):
        raise ScoreSDEError(f"{lost}; nothing was written")


def _observe(opened: OpenedModel, n: int) -> tuple[Observation | None, dict[str, Any]]:
    """The observation of ``n`` samples, and its record."""
    arguments = opened.arguments
    if arguments.condition is None:
        return None, {}
    condition = opened.registry.create("conditions", arguments.condition, units=opened.units)
    if reason := condition.skip(opened.shape):
        raise UsageError(reason)
    if condition.mixes_channels and len({*opened.units.scale}) > 1:
        raise UsageError(f"{condition!r} knows sums of channels, but the model scales each channel separately")
    arguments.rounds, arguments.jump = max(arguments.rounds, condition.rounds), condition.jump
    record = {"condition": repr(condition), "rounds": arguments.rounds}
    if not condition.needs_data:
        if arguments.observe or arguments.index:
            raise UsageError(f"the condition {arguments.condition} needs no data: leave --observe out")
        dtype = getattr(torch, arguments.dtype)
        return condition.observe(torch.zeros(n, *opened.shape, device=opened.device, dtype=dtype)), record
    if arguments.observe is None:
        raise UsageError(f"the condition {arguments.condition} needs events for the known part: give --observe X")
    x = _chosen(arguments.observe, opened, n)
    record |= {"observed": arguments.observe, "split": arguments.split, "index": arguments.index or "in order"}
    return condition.observe(x), record


def _chosen(text: str, opened: OpenedModel, n: int) -> Tensor:
    """``n`` events of a source, those of ``--index`` or all in turn, in the model's units."""
    events = open_events(text, opened)
    indices = opened.arguments.index or range(len(events))
    return opened.units.encode(take(events, [indices[k % len(indices)] for k in range(n)])).float()


def _known(observation: Observation | None, opened: OpenedModel, n: int) -> Tensor | None:
    """The known part of each sample, the middle of the range elsewhere; None for other conditions."""
    if observation is None or not observation.acts_on_state:
        return None
    blank = torch.zeros(n, *opened.shape)
    if opened.units.levels is not None:
        blank = opened.units.encode(blank).float()
    return observation.rows(0, n).to(blank).impose(blank, DATA)


def _samplers(opened: OpenedModel, observation: Observation | None) -> tuple[Sampler, Sampler]:
    """The sampler that is asked for, and the same under the condition and the guidance."""
    arguments, registry = opened.arguments, opened.registry
    plain: Sampler = registry.create("samplers", arguments.sampler) if arguments.sampler else opened.sampler
    if arguments.steps is not None:
        if "steps" not in {p.name for p in parameters(type(plain))} & plain.uses:
            text = arguments.sampler or repr(plain)
            raise UsageError(f"--steps has no effect: the sampler {text} chooses its steps itself; leave it out")
        plain = attrs.evolve(plain, steps=arguments.steps)  # type: ignore[misc]
    if arguments.warm_start is not None:
        parts = {"target": registry.create("targets", arguments.warm_start), "sampler": plain}
        until = 0.3 if arguments.until is None else arguments.until
        plain = registry.create("samplers", "warm_start", until=until, **parts)
    sampler = plain if observation is None else ConditionedSampler(plain, observation, arguments.rounds, arguments.jump)
    if arguments.guidance is not None:
        sampler = GuidedSampler(sampler, registry.create("guidances", arguments.guidance))
    return plain, sampler


def _write(folder: Path, opened: OpenedModel, x: Tensor, known: Tensor | None) -> str | None:
    """Write arrays and a picture; return the picture's note."""
    units, parts = opened.units, {"samples": x} if known is None else {"samples": x, "observed": known}
    arrays: dict[str, NDArray[Any]] = {}
    if units.levels is not None:
        arrays = {name: to_pixels(part, units) for name, part in parts.items()}
    elif known is not None:
        arrays["observed"] = units.to_file(known).numpy()
    if opened.arguments.keep_floats or units.levels is None:
        arrays["floats"] = units.to_file(x).numpy()
    np.savez_compressed(folder / "samples.npz", **arrays)  # type: ignore[arg-type]
    return picture.draw(folder / "samples.png", units, *reversed(parts.values()))


def _steps(progress: Progress, batches: int) -> Callable[[int, int], None]:
    """What shows the steps of one batch after another; in a pipe a line for every tenth of a batch's steps."""
    batch, last = 1, -1

    def show(done: int, total: int) -> None:
        nonlocal batch, last
        if done <= last:
            batch, last = batch + 1, -1
        name = f"batch {batch} of {batches}" if batches > 1 else "sampling"
        due = bool(total) and is_tenth(max(last, 0), done, total)
        progress.show(name, done, total or None, f"{name}: step {done} of {total}", due)
        last = done

    return show
