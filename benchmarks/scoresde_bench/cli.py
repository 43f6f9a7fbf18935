"""The command line of ``scoresde-bench``: sweeps axes, prints a table, stores rows and writes a report.

    scoresde-bench --predictor reverse_diffusion --corrector langevin
    scoresde-bench --sde vp subvp --predictor 'ddim[eta=[0,0.5,1]]' --steps 10,20,50 --grid uniform logsnr

    scoresde-bench --checkpoint DIR --target mnist_mfa --steps 20,50
    scoresde-bench --network vp_cifar10_ddpmpp_continuous --samples 64 --steps 10

    scoresde-bench arena --jobs 2        the samplers of other libraries, judged: --suite arena
    scoresde-bench --suite mine.yaml --executor 'slurm[gpus=1,partition=short]'

An axis with several values is swept. The folder of results is named after the cells, so the same command resumes an
interrupted run and repeats no finished cell.

    scoresde-bench report RUN            write stored results as HTML, Markdown or CSV
    scoresde-bench compare BEFORE AFTER  list what became better or worse
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from scoresde_core import Registry, UsageError, near_misses
from scoresde_run.commands.options import add_shared, check_counts, values_of
from scoresde_run.commands.shell import Parser, add_global_options, guarded, open_registry
from scoresde_run.machine.version import own_version
from .commands import COMMANDS
from .plan import axes
from .plan.suite import Block, Suite

if TYPE_CHECKING:
    from .report.published import PublishedValue
    from .run.executor import Executor

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST = 3.6e8  # seconds of the longest time, over ten years


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code (docs/durability.md has a table)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["arena"]:  # a suite with a word of its own
        given = ["--suite", *given]
    command = COMMANDS.get(given[0]) if given else None
    return guarded(lambda: command(given[1:]) if command else _run(given), "--debug" in given)


def _parser() -> Parser:
    parser = Parser(
        prog="scoresde-bench",
        description="Compare samplers with each other and with exact samples. Every axis may take several values.",
        epilog="A component takes parameters in place: --corrector 'langevin[snr=0.16,n_steps=2]'; "
        "a list expands to a sweep: --predictor 'ddim[eta=[0,1]]'. For stored results: "
        "scoresde-bench report RUN, scoresde-bench compare BEFORE AFTER; for other libraries: scoresde-bench arena; "
        "example: scoresde-bench --predictor reverse_diffusion --corrector langevin; more: docs/bench.md",
        allow_abbrev=False,
    )
    parser.words = (*COMMANDS, "arena")
    swept = parser.add_argument_group("axes")
    for axis, default in axes.DEFAULTS.items():
        text = f"{axes.HELP[axis]} (default: {' '.join(default) or axes.UNNAMED.get(axis, 'none')})"
        swept.add_argument(f"--{axis}", nargs="+", action="extend", metavar="X", help=text)
    run = parser.add_argument_group("run")
    run.add_argument("--suite", nargs="+", action="extend", metavar="X", help="suites to run, by name or as YAML files")
    run.add_argument("--samples", type=int, metavar="N", help=f"samples per cell (default: {axes.SAMPLES})")
    run.add_argument("--batch-size", type=int, metavar="N", help="samples drawn at a time (default: all)")
    text = f"observations of a cell with a condition, which share its samples (default: {axes.OBSERVATIONS})"
    run.add_argument("--observations", type=int, metavar="K", help=text)
    add_shared(run, "device")
    run.add_argument("--tf32", action="store_true", help="allow TF32 matrix products on a GPU (recorded)")
    run.add_argument("--timing", action="store_true", help="measure speed: run one cell per device at a time")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder of results (default: scoresde-runs/HASH-OF-CELLS)")
    run.add_argument("--dry-run", action="store_true", help="list the cells with their predicted cost, and stop")
    run.add_argument("--version", action="version", version=f"scoresde-bench {own_version()}")
    where = parser.add_argument_group("execution")
    where.add_argument("--jobs", type=int, metavar="N", help="run N cells at a time in worker processes")
    where.add_argument("--executor", metavar="X", help="where cells run: local, processes, slurm, ...")
    where.add_argument("--time-budget", metavar="T", help="start no cell that would end after T: 90, 30m, 2h")
    where.add_argument("--timeout", metavar="T", help="stop a cell after T: 90, 30m, 2h")
    add_global_options(parser)
    return parser


def _run(given: list[str]) -> int:
    if given and not given[0].startswith("-"):
        raise UsageError(f"unknown command {given[0]!r}.{near_misses(given[0], [*COMMANDS, 'arena'])}")
    arguments = _parser().parse_args(given)
    registry = open_registry(arguments.registry)
    blocks, published = _blocks(arguments, registry)
    budget, timeout = (_duration(name, getattr(arguments, name)) for name in ("time_budget", "timeout"))
    chosen, jobs = arguments.executor, values_of(arguments, ["jobs"])
    if chosen is None:
        chosen, jobs = ("processes", jobs) if jobs.get("jobs", 1) > 1 else ("local", {})

    # torch is imported from here on, so that usage errors are reported at once.
    from scoresde_run.machine.device import keep_freed_memory
    from .plan.cells import folder_of
    from .plan.sweep import Sweep
    from .run.executor import Settings
    from .run.work import Work

    keep_freed_memory()
    executor: Executor = registry.create("executors", chosen, **jobs)
    device = executor.device(arguments.device)
    asked = frozenset(axis for axis in axes.DEFAULTS if getattr(arguments, axis))
    cells = Sweep(registry, device, prepare=not arguments.dry_run).cells(blocks, asked)
    folder = arguments.out or folder_of(cells)
    files = tuple(str(Path(path).absolute()) for path in arguments.registry)
    typed = shlex.join(["scoresde-bench", *given])
    settings = Settings(str(folder.absolute()), str(Path.cwd()), files, typed, arguments.tf32, timeout, device)
    work = Work(registry, cells, executor, settings, folder, published, budget, arguments.debug)
    return work.preview() if arguments.dry_run else work.run()


def _blocks(arguments: argparse.Namespace, registry: Registry) -> tuple[list[Block], list[PublishedValue]]:
    """The blocks to run, with the command line's axes over those of suites, and the suites' published values."""
    check_counts(arguments, "samples", "batch_size", "observations", "jobs")
    given = {axis: tuple(getattr(arguments, axis)) for axis in axes.DEFAULTS if getattr(arguments, axis)}
    suites = [find_suite(registry, name) for name in arguments.suite or ()]
    blocks = [block.replaced(given) for suite in suites for block in suite.blocks] or [Block(given)]
    options = ("samples", "batch_size", "observations", "timing")
    numbers = {name: getattr(arguments, name) for name in options if getattr(arguments, name)}
    blocks = [attrs.evolve(block, **numbers) for block in blocks]
    for block in blocks:
        if arguments.observations and not block["condition"]:
            raise UsageError("--observations has no effect: add a --condition, such as linear[operator=mask,noise=0.3]")
        for axis in axes.CHOICES:
            axes.words(axis, block[axis])
    return blocks, [value for suite in suites for value in suite.published]


def find_suite(registry: Registry, text: str) -> Suite:
    """Return the suite named ``text``, or the one in the YAML file ``text``."""
    if not text.endswith((".yaml", ".yml")):
        suite: Suite = registry.create("suites", text.replace("-", "_"))
        return suite
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"suite file {path} not found; for a suite by name (scoresde list suites) omit .yaml")
    return Suite.read(path.parent, path.name)


def _duration(option: str, text: str | None) -> float | None:
    """Return the seconds of a number with the unit s, m or h, or without a unit."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST:
        wanted = f"at most {LONGEST / 3600:.0f}h" if seconds > LONGEST else "above 0"
        raise UsageError(f"--{option.replace('_', '-')} must be a time {wanted} such as 90, 30m or 2h, got {text!r}")
    return seconds
