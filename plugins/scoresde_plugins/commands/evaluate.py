"""The command line of ``scoresde evaluate``."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from scoresde_core.command import Command
from scoresde_core.errors import FileError, UsageError
from scoresde_core.registry import Registry
from scoresde_run.commands.options import (
    add_changes,
    add_device,
    add_download,
    add_precision,
    add_weights,
    check_counts,
    check_fractions,
)
from scoresde_run.machine.lock import locked
from scoresde_run.results.rows import warnings_of

if TYPE_CHECKING:
    from scoresde_run.machine.processes import Processes
    from scoresde_run.results.results import Row

    from ..evaluate.checkpoints import ChosenCheckpoint
    from ..evaluate.plan import Request
    from ..evaluate.rows import Evaluation

_COUNTS = {
    "samples": "samples behind the evaluators (default: evaluation.samples)",
    "events": "events of the split, spread evenly over it (default: all)",
    "repeats": "passes of the likelihood, each with its own noise (default: evaluation.repeats)",
    "probes": "probes of the likelihood's divergence for every event (default: 1)",
    "batch_size": "events at a time (default: evaluation.batch_size; for the loss training.batch_size)",
}
RESULTS = "results.jsonl"


@attrs.frozen
class EvaluateCommand(Command):
    """Loss, likelihood and sample quality of one or many checkpoints, batch by batch, in one file of rows.

    The same command goes on where it was killed and gives the same bits; so does any number of processes of torchrun.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Which checkpoints, what of them, and how."""
        parser.add_argument(
            "folders",
            type=Path,
            nargs="+",
            metavar="DIR",
            help="a checkpoint by folder or name, or a run",
        )
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results; those there stay")
        parser.add_argument(
            "--models", default="last", metavar="X",
            help="of a run: last, best, all, configured, steps 5000,10000, or a range 5000-20000 (default: last)",
        )  # fmt: skip
        parser.add_argument(
            "--wait", type=float, metavar="MINUTES",
            help="wait for models that are still trained, for so long at most after the one before",
        )  # fmt: skip
        _add_measures(parser)
        for name, text in _COUNTS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
        parser.add_argument("--seed", type=int, default=0, help="of samples, dequantisation and probes (default: 0)")
        add_weights(parser)
        add_device(parser)
        add_precision(parser)
        add_download(parser)
        add_changes(parser, "data.dataset.root=here", dest="changes")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        """Evaluate; 1 where a checkpoint failed."""
        _check(arguments)

        # Only here does anything import torch: a mistyped option is answered at once.
        from ..evaluate.batches import run_together

        def prepare(processes: Processes, stack: ExitStack) -> Callable[[], int]:
            evaluation, asked = _prepare(arguments, registry, processes, stack)
            return lambda: _evaluate(evaluation, asked, arguments)

        return run_together(arguments.device, prepare)


def _add_measures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured", "Without any: the loss, and what evaluation.likelihood says.")
    group.add_argument("--loss", action="store_true", help="the training loss of the test split, on fixed noise")
    group.add_argument("--likelihood", action="store_true", help="bits/dim by the probability flow ODE")
    group.add_argument(
        "--evaluator", dest="evaluators", nargs="+", action="extend", default=[], metavar="X",
        help="metrics of samples: see 'scoresde list evaluators'",
    )  # fmt: skip
    group.add_argument("--target", metavar="X", help="the exact distribution that evaluators compare with")
    group.add_argument("--sampler", metavar="X", help="where samples come from (default: the configuration's)")
    group.add_argument("--split", choices=("train", "test"), help="of the data (default: test; evaluation.split)")
    group.add_argument("--dequantizer", metavar="X", help="of the likelihood (default: uniform)")
    group.add_argument(
        "--trace", default="rademacher", choices=("rademacher", "gaussian", "exact"),
        help="the likelihood's divergence: by probes, or exact (default: rademacher)",
    )  # fmt: skip
    group.add_argument("--tolerance", type=float, default=1e-5, metavar="X", help="of the ODE (default: 1e-5)")
    group.add_argument("--t-min", type=float, metavar="X", help="where data are placed (default: that of its loss)")
    group.add_argument("--discrete", action="store_true", help="a likelihood of a model of discrete noise scales too")


def _check(arguments: argparse.Namespace) -> None:
    """What is wrong in itself, before anything is opened."""
    check_counts(arguments, *_COUNTS)
    check_fractions(arguments, "tolerance", "t_min")
    if arguments.wait is not None and not 0 < arguments.wait < math.inf:
        raise UsageError(f"--wait takes minutes, a number above 0, got {arguments.wait:g}")
    if arguments.precision != "float32" and arguments.dtype != "float32":
        raise UsageError(f"--precision has no effect on a network in {arguments.dtype}: leave it or --dtype out")
    for name in ("samples", "sampler", "target"):
        if getattr(arguments, name) is not None and not arguments.evaluators:
            raise UsageError(f"--{name} has no effect: samples are drawn for an --evaluator; name one, or leave it out")
    for name in ("repeats", "probes"):
        others = arguments.loss or arguments.evaluators
        if getattr(arguments, name) is not None and others and not arguments.likelihood:
            raise UsageError(f"--{name} has no effect without --likelihood: ask for that, or leave it out")
    there = arguments.out
    own = {RESULTS, "parts", "pictures"}  # a kill may have left any of them alone
    if there.exists() and not (there.is_dir() and ((there / RESULTS).is_file() or _visible(there) <= own)):
        raise FileError(f"{there} exists and holds no evaluation: choose another --out")


def _visible(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[!.]*")}


def _request(arguments: argparse.Namespace) -> Request:
    from ..evaluate.plan import Request

    return Request(**{field.name: getattr(arguments, field.name) for field in attrs.fields(Request)})


def _prepare(
    arguments: argparse.Namespace, registry: Registry, processes: Processes, stack: ExitStack
) -> tuple[Evaluation, list[ChosenCheckpoint]]:
    """Everything that can be refused is refused here: nothing is computed yet."""
    from scoresde_run.machine.device import slow_precision
    from scoresde_run.machine.files import clean
    from scoresde_run.machine.progress import Progress

    from ..evaluate.checkpoints import Choice, chosen_checkpoints
    from ..evaluate.plan import Plans
    from ..evaluate.rows import Evaluation

    choice = Choice.parse(arguments.models)
    # A run may be writing just now: what the first process sees holds for all.
    folders = [_folder(given, registry) for given in arguments.folders]
    asked = processes.exchange(chosen_checkpoints(folders, choice, arguments.wait is not None))[0]
    plans = Plans(registry, _request(arguments), processes.device, arguments.download)
    for each in asked:
        plans.expected(each)
    if processes.first:
        stack.enter_context(locked(arguments.out, "evaluating"))
        clean(arguments.out)
    slow = slow_precision(processes.device, arguments.precision)
    if slow and processes.first:
        print(f"warning: {slow}", file=sys.stderr)
    progress = stack.enter_context(Progress(processes.first))
    command = shlex.join(["scoresde", *sys.argv[1:]])
    return Evaluation(plans, arguments.out, processes, progress, command), asked


def _folder(given: Path, registry: Registry) -> Path:
    """A folder as it is typed, or that of the checkpoint which a plugin ships by this name."""
    from scoresde_run.models import checkpoint

    return given if given.exists() or len(given.parts) > 1 else checkpoint.find(given, registry).folder


def _evaluate(evaluation: Evaluation, asked: Sequence[ChosenCheckpoint], arguments: argparse.Namespace) -> int:
    """A row for each, in the order in which they are there; the exit code."""
    from ..evaluate.checkpoints import as_they_appear

    seconds = (arguments.wait or 0.0) * 60
    coming = as_they_appear(asked, seconds, evaluation.processes, evaluation.progress.say)
    rows = [evaluation.run(each, folder) for each, folder in coming]
    evaluation.progress.stop()
    if evaluation.processes.first:
        _conclude(rows, arguments.out)
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _conclude(rows: Sequence[Row], out: Path) -> None:
    from ..evaluate.texts import metric_texts

    for row in rows:
        told = [row["reason"]] if row["status"] == "failed" else metric_texts(row["metrics"])
        print(f"{row['checkpoint']}: {'; '.join(told)}")
    for warning in warnings_of(rows):
        print(f"warning: {warning}")
    print(f"rows: {out / RESULTS}")
