"""The command line of ``scoresde evaluate``."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from scoresde_core import Command, FileError, Registry, UsageError
from scoresde_run.commands import options
from scoresde_run.commands.known import add_known
from scoresde_run.machine.files import locked
from scoresde_run.results.rows import warnings_of

if TYPE_CHECKING:
    from scoresde_run import Processes, Row
    from ..evaluate.checkpoints import ChosenCheckpoint
    from ..evaluate.rows import Evaluation

_COUNTS = {
    "samples": "samples for the evaluators (default: evaluation.samples)",
    "events": "events of the split, spread evenly over it (default: all)",
    "repeats": "passes of the likelihood, each with its own noise (default: evaluation.repeats)",
    "probes": "probes of the likelihood's divergence per event (default: 1)",
    "batch_size": "events at a time (default: evaluation.batch_size; for the loss training.batch_size)",
}
RESULTS = "results.jsonl"


@attrs.frozen
class EvaluateCommand(Command):
    """Evaluates loss, likelihood and sample quality of checkpoints, and writes one file of rows.

    A killed command is resumed by repeating it. The result has the same bits for any number of torchrun processes.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="checkpoints by folder or name, runs")
        options.add_network(parser)
        parser.add_argument("--sde", metavar="NAME", help="the forward process of --network")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results; existing ones are kept")
        parser.add_argument(
            "--models", default="last", metavar="X",
            help="of a run: last, best, all, configured, steps 5000,10000, or a range 5000-20000 (default: last)",
        )  # fmt: skip
        parser.add_argument(
            "--wait", type=float, metavar="MINUTES",
            help="wait for models that are still being trained, at most so long after each one",
        )  # fmt: skip
        _add_measures(parser)
        for name, text in _COUNTS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
        options.add_seed(parser, "seed of samples, dequantisation and probes")
        options.add_weights(parser)
        options.add_device(parser)
        options.add_precision(parser)
        options.add_download(parser)
        options.add_changes(parser, "data.dataset.root=here", dest="changes")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        _check(arguments)

        # Imports torch, so not before the options are checked.
        from ..evaluate.batches import run_together

        return run_together(arguments.device, partial(_prepare, arguments, registry))


def _add_measures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measures", "Default: the loss, and the likelihood if evaluation.likelihood.")
    group.add_argument("--loss", action="store_true", help="the training loss of the test split, on fixed noise")
    group.add_argument("--likelihood", action="store_true", help="bits/dim by the probability flow ODE")
    group.add_argument(
        "--evaluator", dest="evaluators", nargs="+", action="extend", default=[], metavar="X",
        help="metrics of samples: see 'scoresde list evaluators'",
    )  # fmt: skip
    group.add_argument("--target", metavar="X", help="the exact target that evaluators compare with")
    group.add_argument("--sampler", metavar="X", help="sampler (default: the configuration's)")
    add_known(group)
    group.add_argument("--guidance", metavar="X", help="of samples, such as 'cfg[scale=2]'")
    group.add_argument("--split", choices=("train", "test"), help="split of the data (default: test; evaluation.split)")
    group.add_argument("--dequantizer", metavar="X", help="dequantizer of the likelihood (default: uniform)")
    group.add_argument(
        "--trace", default="rademacher", choices=("rademacher", "gaussian", "exact"),
        help="divergence of the likelihood: by probes, or exact (default: rademacher)",
    )  # fmt: skip
    group.add_argument("--tolerance", type=float, default=1e-5, metavar="X", help="of the ODE (default: 1e-5)")
    group.add_argument("--t-min", type=float, metavar="X", help="time of the data (default: that of the loss)")
    group.add_argument("--discrete", action="store_true", help="allow a model of discrete noise scales")


def _check(arguments: argparse.Namespace) -> None:
    """Check the options before anything is loaded."""
    options.check_counts(arguments, *_COUNTS)
    if not arguments.folders and arguments.network is None:
        raise UsageError("there is nothing to evaluate: name a checkpoint's folder, or give --network")
    if arguments.sde is not None and arguments.network is None:
        raise UsageError(f"--sde {arguments.sde} has no effect without --network: a checkpoint has its own SDE")
    options.check_fractions(arguments, "tolerance", "t_min")
    if arguments.wait is not None and not 0 < arguments.wait < math.inf:
        raise UsageError(f"--wait must be a number of minutes above 0, got {arguments.wait:g}")
    if arguments.precision != "float32" and arguments.dtype != "float32":
        raise UsageError(f"--precision has no effect on a network in {arguments.dtype}: leave it or --dtype out")
    for name in ("samples", "sampler", "target", "known", "guidance"):
        if getattr(arguments, name) not in (None, []) and not arguments.evaluators:
            raise UsageError(f"--{name} has no effect without an --evaluator: give one, or leave it out")
    for name in ("repeats", "probes"):
        others = arguments.loss or arguments.evaluators
        if getattr(arguments, name) is not None and others and not arguments.likelihood:
            raise UsageError(f"--{name} has no effect without --likelihood: add it, or leave --{name} out")
    out = arguments.out
    own = {RESULTS, "parts", "pictures"}  # a kill may have left any one of them
    ours = out.is_dir() and ((out / RESULTS).is_file() or {path.name for path in out.glob("[!.]*")} <= own)
    if out.exists() and not ours:
        raise FileError(f"{out} exists and is not an evaluation: choose another --out")


def _prepare(
    arguments: argparse.Namespace, registry: Registry, processes: Processes, stack: ExitStack
) -> Callable[[], int]:
    """Check everything before anything is computed."""
    from scoresde_run import Progress
    from scoresde_run.machine.device import slow_precision
    from scoresde_run.machine.files import clean
    from ..evaluate.checkpoints import Choice, chosen_checkpoints
    from ..evaluate.plan import Planner, Request
    from ..evaluate.rows import Evaluation

    choice = Choice(arguments.models)
    own = _own(arguments, registry)
    # A run may be writing at this moment, so all processes use what process 0 found.
    folders = [_folder(given, registry) for given in arguments.folders]
    asked = [*processes.exchange(chosen_checkpoints(folders, choice, arguments.wait is not None))[0], *own]
    request = Request(**{field.name: getattr(arguments, field.name) for field in attrs.fields(Request)})
    planner = Planner(registry, request, processes.device, arguments.download)
    for each in asked:
        planner.expected(each)
    if processes.first:
        stack.enter_context(locked(arguments.out, "evaluating"))
        clean(arguments.out)
    slow = slow_precision(processes.device, arguments.precision)
    if slow and processes.first:
        print(f"warning: {slow}", file=sys.stderr)
    progress = stack.enter_context(Progress(processes.first))
    command = shlex.join(["scoresde", *sys.argv[1:]])
    evaluation = Evaluation(planner, arguments.out, processes, progress, command)
    return lambda: _evaluate(evaluation, asked, arguments)


def _own(arguments: argparse.Namespace, registry: Registry) -> list[ChosenCheckpoint]:
    """The network that brings its weights, if one is given."""
    from scoresde_run import Checkpoint
    from scoresde_run.commands.own import own_config
    from ..evaluate.checkpoints import ChosenCheckpoint

    options.check_weights(arguments)
    if arguments.network is None:
        return []
    typed = {"weights": arguments.weights, "parameterisation": arguments.parameterisation}
    config = own_config(registry, arguments.network, arguments.sde, **typed)
    arguments.weights, name = None, str(config.model.network)
    return [ChosenCheckpoint(Path(name), own=Checkpoint(Path(name), config, 0, {}, {}, name))]


def _folder(given: Path, registry: Registry) -> Path:
    """``given`` if it is a folder, else the folder of a plugin's checkpoint of this name."""
    from scoresde_run.models import checkpoint

    return given if given.exists() or len(given.parts) > 1 else checkpoint.find(given, registry).folder


def _evaluate(evaluation: Evaluation, asked: Sequence[ChosenCheckpoint], arguments: argparse.Namespace) -> int:
    """Evaluate the checkpoints in the order in which they appear; return the exit code."""
    from ..evaluate.checkpoints import as_they_appear

    seconds = (arguments.wait or 0.0) * 60
    coming = as_they_appear(asked, seconds, evaluation.processes, evaluation.progress.say)
    rows = [evaluation.run(each, folder) for each, folder in coming]
    evaluation.progress.stop()
    if evaluation.processes.first:
        _conclude(rows, arguments.out)
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _conclude(rows: Sequence[Row], out: Path) -> None:
    from ..evaluate.rows import metric_texts

    for row in rows:
        told = [row["reason"]] if row["status"] == "failed" else metric_texts(row["metrics"])
        print(f"{row['checkpoint']}: {'; '.join(told)}")
    for warning in warnings_of(rows):
        print(f"warning: {warning}")
    print(f"rows: {out / RESULTS}")
