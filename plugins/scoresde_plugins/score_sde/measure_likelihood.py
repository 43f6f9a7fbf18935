"""``scoresde likelihood``: bits per dimension of a data set under a checkpoint or an exact target.

likelihood.yaml     format, version, what was measured and how, bits/dim with its standard error, cost
likelihood.npz      bits_per_dim and nfe (repeats, n), index (n,), with a bound stderr, with --latents latents
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from scoresde_core.cli.events import add_dataset, open_events, subset, take
from scoresde_core.cli.progress import progress
from scoresde_core.cli.subject import Subject, add_subject, open_subject
from scoresde_core.command import Command
from scoresde_core.components import build, parse_value
from scoresde_core.errors import ScoreSDEError, UsageError
from scoresde_core.models import document
from scoresde_core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde_core.dataset import Events
    from scoresde_core.dequantizer import Dequantizer
    from scoresde_core.target import Target

    from .bits_per_dim import BitsPerDim, Measurement
    from .density import Density

FORMAT, VERSION = "scoresde-likelihood", 1
INDEX, ARRAYS = "likelihood.yaml", "likelihood.npz"

_ODE = {
    "trace": "the divergence: rademacher (default) or gaussian probes, or exact",
    "probes": "probes for every image (default: 1)",
    "method": "adaptive Runge-Kutta method (default: dopri5)",
    "rtol": "relative tolerance of the ODE (default: 1e-5)",
    "atol": "absolute tolerance of the ODE (default: 1e-5)",
}


@attrs.frozen
class LikelihoodCommand(Command):
    """The likelihood by the probability flow ODE, or with ``--bound`` ScoreFlow's variational bound.

    Images are taken as uint8, dequantised and scaled here. Under an exact target its own value stands beside.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Model, data, protocol."""
        add_subject(parser)
        add_dataset(parser)
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
        parser.add_argument("--images", type=int, metavar="N", help="N images, the same for every seed (default: all)")
        parser.add_argument("--repeats", type=int, default=1, metavar="N", help="passes with noise of their own")
        parser.add_argument("--dequantizer", default="uniform", metavar="X", help="of uint8 images (default: uniform)")
        parser.add_argument("--t-min", type=parse_value, metavar="T", help="where data are placed (default: 1e-5)")
        parser.add_argument(
            "--discrete", action="store_true",
            help="of a model of discrete noise scales, take the nearest trained one at every time"
        )  # fmt: skip
        ode = parser.add_argument_group("by the probability flow ODE")
        for name, text in _ODE.items():
            ode.add_argument(f"--{name}", type=parse_value, metavar="X", help=text)
        bound = parser.add_argument_group("by the variational bound")
        bound.add_argument("--bound", nargs="?", const="dsm", metavar="FORM", help="the bound, dsm (default) or ssm")
        bound.add_argument("--times", type=parse_value, metavar="N", help="times for every image (default: 1000)")
        bound.add_argument("--uniform-times", action="store_true", help="no importance sampling of times")
        bound.add_argument("--no-offset", action="store_true", help="leave out the step from t_min to the data")
        parser.add_argument("--latents", action="store_true", help="write the latents as well")
        parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="images at a time (default: 100)")
        parser.add_argument("--seed", type=int, default=0, help="of dequantisation, probes, times (default: 0)")
        parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        """Measure, write, print."""
        for name in ("images", "repeats", "batch_size"):
            value = getattr(arguments, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")

        import torch

        from scoresde_core.device import find_device, keep_freed_memory
        from scoresde_core.models.checkpoint import appearing, check_new

        density = find_density(arguments)
        check_new(arguments.out)
        keep_freed_memory()
        dequantizer = registry.create("dequantizers", arguments.dequantizer)
        subject = open_subject(arguments, registry, find_device(arguments.device), torch.float32)
        density.check(subject.score)
        events = open_events(arguments.dataset, subject, registry, arguments.split, arguments.download)
        indices = subset(len(events), arguments.images)
        floats = take(events, indices[:1]).is_floating_point()
        started = time.perf_counter()
        found = _measure(arguments, density, subject, dequantizer, events, indices)
        seconds = time.perf_counter() - started
        data = {"dataset": arguments.dataset or subject.data, "split": arguments.split, "of": len(events)}
        data |= {"images": len(indices), "repeats": arguments.repeats, "seed": arguments.seed}
        data |= {"dequantizer": "none, the data are floats" if floats else arguments.dequantizer}
        data |= {"range": list(subject.range)}
        protocol = {"density": density.name, **attrs.asdict(density)}  # type: ignore[arg-type]
        result = summary(found)
        cost = {"device": str(subject.device), "torch": str(torch.__version__), "seconds": round(seconds, 3)}
        head = {"format": FORMAT, "version": VERSION, **subject.origin, "sde": repr(subject.sde)}
        with appearing(arguments.out) as scratch:
            text = document.dump({**head, **data, **protocol, **result, **cost})
            (scratch / INDEX).write_text(text, encoding="utf-8")
            _write_arrays(scratch / ARRAYS, found, indices, arguments.latents)
        _print(result, len(indices), arguments)
        return 0


def find_density(arguments: argparse.Namespace) -> Density:
    """The density that the options ask for; an option of the other one is a usage error."""
    from .density import BoundDensity, FlowDensity

    flow = {name: getattr(arguments, name) for name in _ODE if getattr(arguments, name) is not None}
    bound = {} if arguments.times is None else {"times": arguments.times}
    bound |= {"importance": False} if arguments.uniform_times else {}
    bound |= {"offset": False} if arguments.no_offset else {}
    common = {} if arguments.t_min is None else {"t_min": arguments.t_min}
    common |= {"discrete": True} if arguments.discrete else {}
    if arguments.bound is None:
        if bound:
            raise UsageError("--times, --uniform-times and --no-offset belong to the variational bound: add --bound")
        found: Density = build(FlowDensity, {**flow, **common}, "the likelihood")
        return found
    if flow or arguments.latents:
        names = ", ".join(f"--{name}" for name in [*flow, *["latents"] * arguments.latents])
        raise UsageError(f"the bound follows no ODE: leave {names} out")
    found = build(BoundDensity, {"form": arguments.bound, **bound, **common}, "the bound")
    return found


def _measure(
    arguments: argparse.Namespace,
    density: Density,
    subject: Subject,
    dequantizer: Dequantizer,
    events: Events,
    indices: list[int],
) -> Measurement:
    """Batch after batch, with the mean so far."""
    from .bits_per_dim import join, measure

    (low, high), size, parts = subject.range, arguments.batch_size, []
    with progress("images", len(indices)) as show:
        for first in range(0, len(indices), size):
            part = measure(
                density,
                subject.score,
                subject.sde,
                take(events, indices[first : first + size]).to(subject.device),
                low=low,
                high=high,
                dequantizer=dequantizer,
                repeats=arguments.repeats,
                seed=arguments.seed,
                first=first,
                exact=None if subject.target is None else _exact(subject.target),
            )
            if not bool(part.bits.values.isfinite().all()):
                raise ScoreSDEError(f"bits/dim are not finite from image {indices[first]} on: nothing was written")
            parts.append(part)
            show(min(first + size, len(indices)), f"{join(parts).bits.mean:.4f} bits/dim")
    return join(parts)


def _exact(target: Target) -> Callable[[Tensor], Tensor]:
    """The target's own log density, in float64."""
    import torch

    precise = target.to("cpu", torch.float64)
    return lambda x: precise.log_prob(x.cpu().double()).to(x.device)


def summary(found: Measurement) -> dict[str, Any]:
    """The numbers of a measurement, for its record."""
    result: dict[str, Any] = {"bits_per_dim": _plain(found.bits)}
    if found.exact is not None and found.gap is not None:
        result |= {"exact_bits_per_dim": _plain(found.exact), "bits_above_exact": _plain(found.gap)}
    if found.stderr is not None:
        # The draws of different images are independent: their errors add up in squares.
        own = float(found.stderr.square().sum().sqrt()) / found.stderr.numel()
        result |= {"stderr_of_draws": round(own, 8)}
    return {**result, "nfe": round(float(found.nfe.double().mean()), 3)}


def _plain(bits: BitsPerDim) -> dict[str, float | None]:
    stderr = bits.stderr
    return {"mean": round(bits.mean, 8), "stderr": None if math.isnan(stderr) else round(stderr, 8)}


def _write_arrays(path: Path, found: Measurement, indices: list[int], latents: bool) -> None:
    import numpy as np

    arrays = {"index": np.array(indices), "bits_per_dim": found.bits.values.numpy(), "nfe": found.nfe.numpy()}
    if found.exact is not None:
        arrays["exact"] = found.exact.values.numpy()
    if found.stderr is not None:
        arrays["stderr"] = found.stderr.numpy()
    if latents and found.latent is not None:
        arrays["latents"] = found.latent.numpy()
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _print(result: dict[str, Any], images: int, arguments: argparse.Namespace) -> None:
    def text(number: dict[str, float | None], sign: str = "") -> str:
        stderr = "" if number["stderr"] is None else f" ± {number['stderr']:.4f}"
        return f"{number['mean']:{sign}.4f}{stderr} bits/dim"

    what = "at most " if arguments.bound and not arguments.no_offset else ""
    repeats = f" x {arguments.repeats}" if arguments.repeats > 1 else ""
    print(
        f"{what}{text(result['bits_per_dim'])}, {images} images{repeats}, {result['nfe']:g} function evaluations each"
    )
    if "exact_bits_per_dim" in result:
        print(f"exact: {text(result['exact_bits_per_dim'])}; above it by {text(result['bits_above_exact'], '+')}")
    print(f"wrote {arguments.out / INDEX}, {arguments.out / ARRAYS}")
