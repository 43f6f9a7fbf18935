"""``scoresde sample``: samples of a checkpoint or an exact target, as a PNG grid and an ``.npz``.

The folder has ``samples.npz``, ``samples.png`` for events of one or three channels (the first 256), and
``sampling.yaml``, which records how they were made. Images are ``samples`` (uint8, NHWC, as FID tools read them),
rounded to the nearest value; the published code truncates, which darkens every image by half a value. Other events are
``floats`` (N, ...) in the numbers of the data; their picture is scaled, as recorded.

Under a ``--condition`` that knows a part of the sample, every tile of the picture shows the known part next to the
sample, and the ``.npz`` has the known part as ``observed``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, FileError, Registry, ScoreSDEError, UsageError, parameters
from ..machine.progress import Progress, is_tenth, step_observer
from ..results import picture
from ..results.picture import to_pixels
from .events import open_events, take, to_model
from .known import add_known, tell
from .opened import add_model, open_model
from .options import add_device, add_download, add_precision, add_seed, check_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from scoresde_core import Sampler, Samples
    from ..data.units import Units
    from ..sampling.condition import Condition, Observation
    from .opened import OpenedModel

INDEX = "sampling.yaml"
_TRUE_EVENTS = 256
"""Number of draws of a target that determine its scale."""


@attrs.frozen
class SampleCommand(Command):
    """Draws samples of a model or an exact target: ``scoresde sample --checkpoint RUN --out DIR``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
        parser.add_argument("--n", type=int, metavar="N", help="number of samples (default: the configuration's)")
        parser.add_argument(
            "--sampler", metavar="X", help="such as 'pc[predictor=ddim,steps=50]' (default: the configuration's)"
        )
        parser.add_argument("--steps", type=int, metavar="N", help="number of steps of the sampler")
        add_seed(parser, "seed of the noise")
        parser.add_argument("--batch-size", type=int, metavar="N", help="samples at a time (default: all)")
        add_device(parser)
        add_precision(parser)
        parser.add_argument("--keep-floats", action="store_true", help="also write the samples before rounding, NCHW")
        given = parser.add_argument_group("controllable generation")
        add_known(given)
        given.add_argument("--guidance", metavar="X", help="away from another score, such as 'cfg[scale=2]'")
        given.add_argument("--condition", metavar="X", help="such as 'inpaint[mask=box]', colorize, linear, class")
        given.add_argument(
            "--observe", metavar="X",
            help="source of the known part: a data set, an .npz file, an image, or a folder of images"
        )  # fmt: skip
        given.add_argument(
            "--index", type=int, nargs="+", metavar="I",
            help="which of these events; several are cycled over the samples (default: in their order)"
        )  # fmt: skip
        given.add_argument("--split", default="test", choices=("train", "test"), help="of the data set (default: test)")
        add_download(given)
        given.add_argument(
            "--start-from", metavar="X", help="events to start from, noised, in place of the prior: as --observe"
        )
        given.add_argument("--t-start", type=float, metavar="T", help="time of that noise (default: 0.5)")
        given.add_argument("--rounds", type=int, default=1, metavar="N", help="repeats of a predictor step (RePaint)")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        return _sample(arguments, registry)


def _check(arguments: argparse.Namespace) -> None:
    """Check the options before anything is loaded."""
    check_counts(arguments, "n", "steps", "batch_size", "rounds")
    if arguments.condition is None and (arguments.observe or arguments.rounds > 1):
        raise UsageError("--observe and --rounds need a --condition: see 'scoresde list conditions'")
    if arguments.index and not (arguments.condition or arguments.start_from):
        raise UsageError("--index needs a --condition or --start-from, whose events it chooses")
    if arguments.t_start is not None and arguments.start_from is None:
        raise UsageError("--t-start needs events to start from: give --start-from X")
    if arguments.precision != "float32" and (arguments.target or arguments.dtype != "float32"):
        why = "an exact score has no network" if arguments.target else f"the network computes in {arguments.dtype}"
        raise UsageError(f"--precision {arguments.precision} has no effect: {why}; leave it out")
    if arguments.out.exists() and not (arguments.out / INDEX).is_file():
        raise FileError(f"{arguments.out} exists: choose another --out, or remove it")


def _sample(arguments: argparse.Namespace, registry: Registry) -> int:
    _check(arguments)

    import torch  # takes time, so not before the options are checked
    from scoresde_core import sampler as sampling
    from ..machine.device import find_device, keep_freed_memory, slow_precision
    from ..results import request
    from ..sampling.condition import ConditionedSampler
    from ..sampling.guidance import GuidedSampler
    from ..sampling.samples import smallest_batch
    from ..sampling.start import start_from

    request.check_place(arguments.out, INDEX)
    keep_freed_memory()
    device, dtype = find_device(arguments.device), getattr(torch, arguments.dtype)
    opened = open_model(arguments, registry, device, dtype, arguments.precision)
    n = arguments.n or opened.n
    model = tell(arguments, opened, registry, n)
    plain = sampler = _sampler(arguments, registry, opened)
    observation: Observation | None = None
    observed: dict[str, Any] = {}
    if arguments.condition is not None:
        blank = torch.zeros(n, *opened.shape, device=device, dtype=dtype)
        observation, observed = _observe(arguments, registry, opened, blank)
        sampler = ConditionedSampler(sampler, observation, arguments.rounds)
    if arguments.guidance is not None:
        sampler = GuidedSampler(sampler, registry.create("guidances", arguments.guidance))
    reason = sampling.skip(sampler, opened.sde, opened.shape) or sampler.skip_model(model)
    if reason:
        raise UsageError(reason)
    parts = sampler, opened.sde, opened.target, opened.plan and opened.plan.network
    latent: Tensor | None = None
    if arguments.start_from is not None:
        x = _chosen(arguments, arguments.start_from, registry, opened, n).to(device, dtype)
        model, latent = start_from(model, x, 0.5 if arguments.t_start is None else arguments.t_start, arguments.seed)
    inputs = {"observation": observation, **({} if latent is None else {"latent": latent}), **opened.named}
    asked = request.digits(registry, arguments, *parts, **inputs)
    if request.finished(arguments.out, asked, INDEX):
        return 0
    caveat = sampler.caveat(opened.shape, smallest_batch(n, arguments.batch_size))
    for warning in filter(None, (caveat, slow_precision(device, arguments.precision))):
        print(f"warning: {warning}", file=sys.stderr)
    with Progress() as progress:
        steps = _Steps(progress, -(-n // (arguments.batch_size or n)))
        how: dict[str, Any] = {"seed": arguments.seed, "batch_size": arguments.batch_size, "device": device}
        how |= {"latent": latent, "dtype": dtype, "observe": step_observer(registry, steps.show)}
        drawn = sampling.sample(model, sampler, n, **how)
    _check_samples(drawn.x, opened, plain)
    about = {**opened.origin, "sampler": repr(plain), "sde": repr(opened.sde), **observed}
    told = ("known", "guidance", "start_from", "t_start")
    about |= {name: value for name in told if (value := getattr(arguments, name))}
    about |= {"seed": arguments.seed, "n": n, "batch_size": min(arguments.batch_size or n, n), "asked": asked}
    written = _save(arguments, opened, drawn, _known(observation, opened, n), about)
    guided = f", guidance {arguments.guidance}" if arguments.guidance else ""
    print(f"sampler: {registry.typed(plain) or repr(plain)}{guided}")
    print(f"{n} samples of shape {list(opened.shape)}, {drawn.nfe:g} function evaluations each, {drawn.seconds:.1f} s")
    if "picture" in about:
        print(f"the picture shows {about['picture']}")
    print(f"wrote {', '.join(str(arguments.out / name) for name in written)}")
    return 0


def _check_samples(x: Tensor, opened: OpenedModel, sampler: Sampler) -> None:
    """Raise :class:`ScoreSDEError` for samples of a wrong shape or scale."""
    from ..sampling.samples import diverged, root_mean_square

    if x.shape[1:] != opened.shape:
        raise ScoreSDEError(f"{sampler!r} gave samples of shape {tuple(x.shape[1:])}, expected {opened.shape}")
    scale = None if opened.target is None else root_mean_square(opened.target.sample(_TRUE_EVENTS))
    lost = diverged(x, scale)
    if lost:
        raise ScoreSDEError(f"{lost}; nothing was written")


def _observe(
    arguments: argparse.Namespace, registry: Registry, opened: OpenedModel, blank: Tensor
) -> tuple[Observation, dict[str, Any]]:
    """The observation for each row of ``blank``, and its record."""
    condition = registry.create("conditions", arguments.condition, units=opened.units)
    reason = condition.skip(opened.shape) or _skip_units(condition, opened)
    if reason:
        raise UsageError(reason)
    record = {"condition": repr(condition), "rounds": arguments.rounds}
    if not condition.needs_data:
        if arguments.observe or arguments.index:
            raise UsageError(f"the condition {arguments.condition} needs no data: leave --observe out")
        return condition.observe(blank), record
    if arguments.observe is None:
        raise UsageError(f"the condition {arguments.condition} needs events for the known part: give --observe X")
    x = _chosen(arguments, arguments.observe, registry, opened, len(blank))
    record |= {"observed": arguments.observe, "split": arguments.split, "index": arguments.index or "in order"}
    return condition.observe(x), record


def _chosen(arguments: argparse.Namespace, text: str, registry: Registry, opened: OpenedModel, n: int) -> Tensor:
    """``n`` events of a source, those of ``--index`` or all in turn, in the model's units."""
    events = open_events(text, opened, registry, arguments.split, arguments.download)
    indices = arguments.index or range(len(events))
    return to_model(take(events, [indices[k % len(indices)] for k in range(n)]), opened)


def _skip_units(condition: Condition, opened: OpenedModel) -> str | None:
    """Refuse conditions on sums of channels if each channel has its own scale."""
    if condition.mixes_channels and len({*opened.units.scale}) > 1:
        return f"{condition!r} knows sums of channels, but the model scales each channel separately"
    return None


def _known(observation: Observation | None, opened: OpenedModel, n: int) -> Tensor | None:
    """The known part of each sample, the middle of the range elsewhere; None for other conditions."""
    import torch
    from scoresde_core import DATA

    if observation is None or not observation.acts_on_state:
        return None
    blank = torch.zeros(n, *opened.shape)
    if opened.units.levels is not None:
        blank = opened.units.encode(blank).float()
    return observation.rows(0, n).to(blank).impose(blank, DATA)


def _sampler(arguments: argparse.Namespace, registry: Registry, opened: OpenedModel) -> Sampler:
    sampler: Sampler = registry.create("samplers", arguments.sampler) if arguments.sampler else opened.sampler
    if arguments.steps is None:
        return sampler
    if "steps" not in {p.name for p in parameters(type(sampler))} & sampler.uses:
        text = arguments.sampler or repr(sampler)
        raise UsageError(f"--steps has no effect: the sampler {text} chooses its steps itself; leave it out")
    return attrs.evolve(sampler, steps=arguments.steps)  # type: ignore[misc]


def _save(
    arguments: argparse.Namespace, opened: OpenedModel, drawn: Samples, known: Tensor | None, about: dict[str, Any]
) -> list[str]:
    """Write the folder with its record; return the names of its files."""
    import torch
    from ..machine.files import new_folder
    from ..results import request

    about |= {} if arguments.precision == "float32" else {"precision": arguments.precision}
    about |= {"dtype": arguments.dtype, "device": str(opened.device), "torch": str(torch.__version__)}
    about |= {"nfe": drawn.nfe, "seconds": round(drawn.seconds, 3)}
    with new_folder(arguments.out) as scratch:
        written, note = _write(scratch, opened.units, drawn.x.cpu(), known, arguments.keep_floats)
        about |= {} if note is None else {"picture": note}
        (scratch / written[-1]).write_text(request.sealed(about, scratch, *written[:-1]), encoding="utf-8")
    return written


def _write(
    folder: Path, units: Units, x: Tensor, known: Tensor | None, keep_floats: bool
) -> tuple[list[str], str | None]:
    """Write arrays and a picture; return the file names, the record's last, and the picture's note."""
    import numpy as np

    parts = {"samples": x} if known is None else {"samples": x, "observed": known}
    arrays: dict[str, NDArray[Any]] = {}
    if units.levels is not None:
        arrays = {name: to_pixels(part, units) for name, part in parts.items()}
    elif known is not None:
        arrays["observed"] = units.to_file(known).numpy()
    note = picture.draw(folder / "samples.png", units, *reversed(parts.values()))
    if keep_floats or units.levels is None:
        arrays["floats"] = units.to_file(x).numpy()
    np.savez_compressed(folder / "samples.npz", **arrays)  # type: ignore[arg-type]
    return ["samples.npz", "samples.png", INDEX], note


class _Steps:
    """Shows the steps of one batch after another; in a pipe a line for every tenth of a batch's steps."""

    def __init__(self, progress: Progress, batches: int) -> None:
        self.progress, self.batches, self.batch, self.last = progress, batches, 1, -1

    def show(self, done: int, total: int) -> None:
        """Show that step ``done`` of ``total`` is made; 0 if their number is unknown."""
        if done <= self.last:
            self.batch, self.last = self.batch + 1, -1
        name = f"batch {self.batch} of {self.batches}" if self.batches > 1 else "sampling"
        due = bool(total) and is_tenth(max(self.last, 0), done, total)
        self.progress.show(name, done, total or None, f"{name}: step {done} of {total}", due)
        self.last = done
