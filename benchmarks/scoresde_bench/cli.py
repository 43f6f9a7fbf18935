"""The command line of ``scoresde-bench``: axes to sweep, a table, rows on disk, a report.

    scoresde-bench --predictor reverse_diffusion --corrector langevin
    scoresde-bench --sde vp subvp --predictor 'ddim[eta=[0,0.5,1]]' --steps 10,20,50 --grid uniform logsnr

    scoresde-bench --checkpoint DIR --target mnist_mfa --steps 20,50
    scoresde-bench --network vp_cifar10_ddpmpp_continuous --samples 64 --steps 10

Every axis takes several values and is then swept. The folder of results is named after the cells, so the same
command takes up an interrupted run and repeats nothing that is done.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoresde_core.cli import Parser, add_global_options, guarded, open_registry, own_version
from scoresde_core.errors import UsageError
from scoresde_core.registry import Registry

DEFAULTS: dict[str, list[str]] = {
    "target": ["mnist_mfa"],
    "checkpoint": [],
    "network": [],
    "sde": ["ve", "vp", "subvp"],
    "sampler": ["pc"],
    "predictor": ["reverse_diffusion"],
    "corrector": ["none"],
    "grid": ["uniform"],
    "steps": ["25", "50", "100"],
    "seed": ["0"],
    "dtype": ["float32"],
    "evaluator": ["nll_gap", "sliced_wasserstein", "mode_weights", "moments", "energy_distance"],
}
HELP = {
    "target": "exact distribution to sample from, or to judge a checkpoint by",
    "checkpoint": "a learned model, by folder or name, in place of a target's exact score and of --sde",
    "network": "preset with random weights, to measure speed alone",
    "sde": "forward process",
    "sampler": "loop: pc, ode, ...",
    "predictor": "reverse-time step",
    "corrector": "MCMC at each noise level",
    "grid": "where the steps lie in time",
    "steps": "number of predictor steps",
    "seed": "seed of the noise and of the exact sets",
    "dtype": "float32 or float64: of the state",
    "evaluator": "metrics (not swept: all are computed)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 if a cell failed, 2 for a usage error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(given), "--debug" in given)


def _parser() -> Parser:
    parser = Parser(
        prog="scoresde-bench",
        description="Which sampler is best, measured against the truth. Every axis may take several values.",
        epilog="A component takes parameters in place: --corrector 'langevin[snr=0.16,n_steps=2]'; "
        "a list expands to a sweep: --predictor 'ddim[eta=[0,1]]'.",
        allow_abbrev=False,
    )
    axes = parser.add_argument_group("axes")
    for axis, default in DEFAULTS.items():
        text = f"{HELP[axis]} (default: {' '.join(default) or 'none'})"
        axes.add_argument(f"--{axis}", nargs="+", action="extend", metavar="X", help=text)
    run = parser.add_argument_group("run")
    run.add_argument("--samples", type=int, default=1024, metavar="N", help="samples a cell (default: 1024)")
    run.add_argument("--batch-size", type=int, metavar="N", help="samples at a time (default: all)")
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    run.add_argument("--tf32", action="store_true", help="allow TF32 matrix products on a GPU (recorded)")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="results (default: scoresde-runs/ and a hash of the cells)"
    )
    run.add_argument("--dry-run", action="store_true", help="list the cells and stop")
    run.add_argument("--version", action="version", version=f"scoresde-bench {own_version()}")
    add_global_options(parser)
    return parser


def _run(given: list[str]) -> int:
    arguments = _parser().parse_args(given)
    registry = open_registry(arguments.registry)
    for name, value in (("samples", arguments.samples), ("batch-size", arguments.batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    numbers = {axis: _numbers(axis, getattr(arguments, axis)) for axis in ("steps", "seed")}
    dtypes = _words(arguments.dtype, "dtype")
    unknown = [name for name in dtypes if name not in ("float32", "float64")]
    if unknown:
        raise UsageError(f"--dtype must be float32 or float64, got {unknown[0]!r}")

    # Only here does anything import torch: a mistyped number is answered at once.
    from scoresde_core.device import find_device, keep_freed_memory

    from .cells import COMPONENT_AXES, Cell, expand, sweep
    from .subjects import exact_subjects, learned_subjects

    keep_freed_memory()
    asked = frozenset(axis for axis in DEFAULTS if getattr(arguments, axis))
    axes: dict[str, list[Any]] = {
        axis: sweep(registry, kind, _words(getattr(arguments, axis), axis)) for axis, kind in COMPONENT_AXES.items()
    }
    axes |= {**numbers, "dtype": dtypes}
    evaluators = {
        str(spec): registry.create("evaluators", spec)
        for spec in sweep(registry, "evaluators", _words(arguments.evaluator, "evaluator"))
    }
    if arguments.checkpoint or arguments.network:
        if arguments.sde:
            raise UsageError("--sde has no effect: a checkpoint and a preset bring their own SDE; leave it out")
        truths = axes["target"] if arguments.target else []
        subjects = learned_subjects(registry, arguments.checkpoint or [], arguments.network or [], truths)
    else:
        subjects = exact_subjects(registry, axes["target"], axes["sde"])
    device = find_device(arguments.device)
    cells: list[Cell] = expand(
        registry,
        subjects,
        axes,
        asked,
        samples=arguments.samples,
        batch_size=min(arguments.batch_size or arguments.samples, arguments.samples),
        device=str(device),
        evaluators=tuple(evaluators),
    )
    if arguments.dry_run:
        for cell in cells:
            print(f"{cell.key}  {cell.title}" + (f"  (skipped: {cell.skip})" if cell.skip else ""))
        print(f"{len(cells)} cell{'s' * (len(cells) != 1)}")
        return 0
    if arguments.tf32:
        import torch

        torch.set_float32_matmul_precision("high")
    folder = arguments.out or Path("scoresde-runs") / _job(cells)
    return _work(registry, cells, evaluators, folder, arguments, shlex.join(["scoresde-bench", *given]))


def _work(
    registry: Registry,
    cells: list[Any],
    evaluators: dict[str, Any],
    folder: Path,
    arguments: argparse.Namespace,
    command: str,
) -> int:
    from rich.console import Console

    from .progress import Meter
    from .ranking import rank
    from .report import write_report
    from .results import Results
    from .run import Bench
    from .table import print_table

    results = Results(folder)
    bench = Bench(registry, folder, evaluators, command, arguments.tf32)
    console = Console(soft_wrap=True)
    todo = [cell for cell in cells if not results.finished(cell.key)]
    if len(todo) < len(cells):
        console.print(f"{len(cells) - len(todo)} of {len(cells)} cells were done before, in {folder}")
    with Meter(console, len(todo)) as meter:
        for cell in todo:
            row = bench.run(cell, meter.start(cell.title))
            results.append(row)
            meter.finish(row)
            if row["status"] == "failed" and arguments.debug:
                print(row.get("traceback", ""), file=sys.stderr)
    rows = [results.rows[cell.key] for cell in cells]
    print_table(rows, console)
    for sentence in rank(rows).sentences:
        console.print(sentence, markup=False, highlight=False)
    meaning = {entry.row.name: entry.row.summary for entry in registry.entries("evaluators")}
    write_report(rows, folder / "report.html", command, meaning)
    console.print(f"rows:    {folder / 'results.jsonl'}\nreport:  {folder / 'report.html'}", highlight=False)
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _words(values: list[str] | None, axis: str) -> list[str]:
    return values or DEFAULTS[axis]


def _numbers(axis: str, values: list[str] | None) -> list[int]:
    """The integers of an axis, separated by blanks or commas."""
    numbers = []
    least = 1 if axis == "steps" else 0
    for word in ",".join(_words(values, axis)).split(","):
        if not word.strip().lstrip("-").isdigit() or int(word) < least:
            raise UsageError(f"--{axis} takes whole numbers from {least}, got {word.strip()!r}")
        numbers.append(int(word))
    return list(dict.fromkeys(numbers))


def _job(cells: list[Any]) -> str:
    """A name for the set of cells, so that the same command finds its own results."""
    keys = "".join(sorted(cell.key for cell in cells))
    return hashlib.blake2b(keys.encode(), digest_size=4).hexdigest()
