"""``scoresde sample``: samples of a checkpoint, as a PNG grid and an ``.npz``.

The folder that is written holds ``samples.npz`` (uint8, NHWC, as FID tools read them), ``samples.png`` for images of
one or three channels (the first 256), and ``sampling.yaml``, which says how they came about. Pixels are rounded to the
nearest value; the published code cuts off instead, which darkens every image by half a value.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .. import document, picture
from ..components import parameters
from ..errors import FileError, ScoreSDEError, UsageError
from ..picture import to_pixels
from ..registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..model import Model
    from ..sampler import Observer, Sampler

NAMES = ("sample",)
_TILES = 256
_DTYPES = ("float32", "float64")


def configure(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("sample", help="samples of a checkpoint, as pictures and numbers")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint folder, or a name of 'scoresde list checkpoints'"
    )
    model.add_argument("--preset", metavar="NAME", help="a preset with random weights, to try what is possible")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--n", type=int, metavar="N", help="number of samples (default: the configuration's)")
    parser.add_argument(
        "--sampler", metavar="X", help="such as 'pc[predictor=ddim,steps=50]' (default: the configuration's)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="number of steps, whatever the sampler")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; the same seed gives the same samples")
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples at a time (default: all)")
    parser.add_argument(
        "--weights", choices=("ema", "raw"), help="averaged or plain (default: averaged where there are)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--dtype", default="float32", choices=_DTYPES, help="of state and network")
    parser.add_argument("--keep-floats", action="store_true", help="the samples before rounding as well, NCHW")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change the configuration: sampling.t_min=1e-4"
    )  # fmt: skip
    parser.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace, registry: Registry) -> int:
    for name, value in (("n", arguments.n), ("steps", arguments.steps), ("batch-size", arguments.batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if arguments.out.exists():
        raise FileError(f"{arguments.out} exists: choose another --out, or remove it")

    # Only here does anything import torch: a mistyped option is answered at once.
    import torch

    from .. import sampler as sampling
    from ..checkpoint import appearing, check_new
    from ..device import find_device, keep_freed_memory

    check_new(arguments.out)
    keep_freed_memory()
    device, dtype = find_device(arguments.device), getattr(torch, arguments.dtype)
    model, origin = _open(arguments, registry)
    sampler = _sampler(arguments, registry, model)
    reason = sampling.skip(sampler, model.sde, model.shape)
    if reason:
        raise UsageError(reason)
    n = arguments.n or model.config.sampling.n
    with _Progress(n, arguments.batch_size or n) as progress:
        drawn = sampling.sample(
            model.to(device, dtype).score(),
            model.sde,
            sampler,
            model.shape,
            n,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            device=device,
            dtype=dtype,
            observe=progress.observer(registry),
        )
    bad = int((~drawn.x.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise ScoreSDEError(
            f"the sampler diverged: {bad} of {n} samples are not finite; try more steps; nothing was written"
        )
    with appearing(arguments.out) as scratch:
        written = _write(scratch, model, drawn.x.cpu(), arguments.keep_floats)
        settings = {"seed": arguments.seed, "n": n, "batch_size": min(arguments.batch_size or n, n)}
        settings |= {"dtype": arguments.dtype, "device": str(device), "torch": str(torch.__version__)}
        cost = {"nfe": drawn.nfe, "seconds": round(drawn.seconds, 3)}
        record = {**origin, "sampler": repr(sampler), "sde": repr(model.sde), **settings, **cost}
        (scratch / written[-1]).write_text(document.dump(record), encoding="utf-8")
    print(f"{n} samples of shape {list(model.shape)}, {drawn.nfe:g} function evaluations each, {drawn.seconds:.1f} s")
    print(f"wrote {', '.join(str(arguments.out / name) for name in written)}")
    return 0


def _open(arguments: argparse.Namespace, registry: Registry) -> tuple[Model, dict[str, Any]]:
    """The model, and where it is from."""
    from .. import checkpoint
    from ..model import plan_model
    from .presets import find_preset

    if arguments.checkpoint is None:
        if arguments.weights:
            raise UsageError(f"--weights {arguments.weights} needs a --checkpoint: a preset has random weights")
        config = find_preset(registry, arguments.preset).override(arguments.set)
        model = plan_model(config, registry).build(arguments.seed)
        return model, {
            "preset": arguments.preset,
            "changes": arguments.set,
            "weights": f"random, seed {arguments.seed}",
        }
    found = checkpoint.find(arguments.checkpoint, registry)
    found = attrs.evolve(found, config=found.config.override(arguments.set))
    ema = None if arguments.weights is None else arguments.weights == "ema"
    which = "ema" if found.uses_ema(ema) else "raw"
    origin = {"checkpoint": arguments.checkpoint, "changes": arguments.set, "step": found.step, "weights": which}
    return found.load(registry, ema), {**origin, "digest": found.digest(ema)}


def _sampler(arguments: argparse.Namespace, registry: Registry, model: Model) -> Sampler:
    sampler: Sampler = registry.create("samplers", arguments.sampler) if arguments.sampler else model.plan.sampler
    if arguments.steps is None:
        return sampler
    if "steps" not in {p.name for p in parameters(type(sampler))} & sampler.uses:
        text = arguments.sampler or model.config.sampling.sampler
        raise UsageError(f"--steps has no effect: the sampler {text} chooses its steps itself; leave it out")
    return attrs.evolve(sampler, steps=arguments.steps)  # type: ignore[misc]


def _write(folder: Path, model: Model, x: Tensor, keep_floats: bool) -> list[str]:
    """Numbers and, for images, a picture; returns the names of all files, that of the record last."""
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    written = ["samples.npz"]
    if x.ndim == 4:
        pixels = to_pixels(model.plan.to_symmetric(x))
        arrays["samples"] = pixels
        if pixels.shape[-1] in (1, 3):
            picture.write(pixels[:_TILES], folder / "samples.png")
            written.append("samples.png")
    if keep_floats or x.ndim != 4:
        arrays["floats"] = x.numpy()
    np.savez_compressed(folder / "samples.npz", **arrays)  # type: ignore[arg-type]
    return [*written, "sampling.yaml"]


class _Progress:
    """A bar on a terminal; in a pipe a plain line on stderr for every tenth of a batch's steps."""

    def __init__(self, n: int, batch_size: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.live = console.is_terminal
        self.bar = Progress(*columns, console=console, disable=not self.live, transient=True)
        self.task = self.bar.add_task("sampling", total=None)
        self.batches, self.batch, self.last = -(-n // batch_size), 0, -1

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def observer(self, registry: Registry) -> Observer:
        """What the sampler calls after every step; plugins that listen hear of it too."""
        hook = registry.hook.scoresde_on_sampling_step
        listeners = hook.get_hookimpls()

        def observe(done: int, total: int, x: Tensor) -> None:
            if done <= self.last:
                self.batch, self.last = self.batch + 1, -1
            self._show(done, total)
            self.last = done
            if listeners:
                hook(done=done, total=total, x=x)

        return observe

    def _show(self, done: int, total: int) -> None:
        name = f"batch {self.batch + 1} of {self.batches}" if self.batches > 1 else "sampling"
        if self.live:
            self.bar.update(self.task, description=name, completed=done, total=total or None)
        elif total and done * 10 // total > max(self.last, 0) * 10 // total:
            print(f"{name}: step {done} of {total}", file=sys.stderr)
