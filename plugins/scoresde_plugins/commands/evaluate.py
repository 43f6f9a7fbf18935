"""The command line of ``scoresde evaluate``."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, FileError, Registry, UsageError
from scoresde_run.commands.options import SHARED, add_shared, check_counts, check_fractions, check_weights, values_of
from scoresde_run.machine.files import locked
from scoresde_run.results.rows import warnings_of

if TYPE_CHECKING:
    from scoresde_run import Processes
    from ..evaluate.checkpoints import ChosenCheckpoint

RESULTS = "results.jsonl"


@attrs.frozen
class EvaluateCommand(Command):
    """Evaluates loss, likelihood and sample quality of checkpoints, and writes one file of rows.

    A killed command is resumed by repeating it. The result has the same bits for any number of torchrun processes.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("folders", type=Path, nargs="*", metavar="DIR", help="checkpoints by folder or name, runs")
        add_shared(parser, "network", "parameterisation")
        add("--sde", metavar="NAME", help="the forward process of --network")
        add_shared(parser, out="results; existing ones are kept")
        text = "of a run: last, best, all, configured, steps 5000,10000, or a range 5000-20000 (default: last)"
        add("--models", default="last", metavar="X", help=text)
        text = "wait for models that are still being trained, at most so long after each one"
        add("--wait", type=float, metavar="MINUTES", help=text)
        number: dict[str, Any] = {"type": int, "metavar": "N"}
        add("--samples", **number, help="samples for the evaluators (default: evaluation.samples)")
        add("--events", **number, help="events of the split, spread evenly over it (default: all)")
        text = "passes of the likelihood, each with its own noise (default: evaluation.repeats)"
        add("--repeats", **number, help=text)
        add("--probes", **number, help="probes of the likelihood's divergence per event (default: 1)")
        text = "events at a time (default: evaluation.batch_size; for the loss training.batch_size)"
        add("--batch-size", **number, help=text)
        add_shared(parser, seed="seed of samples, dequantisation and probes (default: 0)")
        add_shared(parser, "weights", "device", "dtype", "precision", "download")
        text = "change the configuration: data.dataset.root=here"
        add("--set", dest="changes", **{**SHARED["set"], "help": text})
        group = parser.add_argument_group("measures", "Default: the loss, and the likelihood if evaluation.likelihood.")
        add = group.add_argument
        add("--loss", action="store_true", help="the training loss of the test split, on fixed noise")
        add("--likelihood", action="store_true", help="bits/dim by the probability flow ODE")
        many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "X"}
        add("--evaluator", dest="evaluators", **many, help="metrics of samples: see 'scoresde list evaluators'")
        add("--target", metavar="X", help="the exact target that evaluators compare with")
        add("--sampler", metavar="X", help="sampler (default: the configuration's)")
        add_shared(group, "known")
        add("--guidance", metavar="X", help="of samples, such as 'cfg[scale=2]'")
        add("--split", choices=("train", "test"), help="split of the data (default: test; evaluation.split)")
        add("--dequantizer", metavar="X", help="dequantizer of the likelihood (default: uniform)")
        text = "divergence of the likelihood: by probes, or exact (default: rademacher)"
        add("--trace", default="rademacher", choices=("rademacher", "gaussian", "exact"), help=text)
        add("--tolerance", type=float, default=1e-5, metavar="X", help="of the ODE (default: 1e-5)")
        add("--t-min", type=float, metavar="X", help="time of the data (default: that of the loss)")
        add("--discrete", action="store_true", help="allow a model of discrete noise scales")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        _check(arguments)

        # Imports torch, so not before the options are checked.
        from ..evaluate.measure import run_together

        return run_together(arguments.device, partial(_prepare, arguments, registry))


def _check(arguments: argparse.Namespace) -> None:
    check_counts(arguments, "samples", "events", "repeats", "probes", "batch_size")
    if not arguments.folders and arguments.network is None:
        raise UsageError("there is nothing to evaluate: name a checkpoint's folder, or give --network")
    if arguments.sde is not None and arguments.network is None:
        raise UsageError(f"--sde {arguments.sde} has no effect without --network: a checkpoint has its own SDE")
    check_fractions(arguments, "tolerance", "t_min")
    if arguments.wait is not None and not 0 < arguments.wait < math.inf:
        raise UsageError(f"--wait must be a number of minutes above 0, got {arguments.wait:g}")
    if arguments.precision != "float32" and arguments.dtype != "float32":
        raise UsageError(f"--precision has no effect on a network in {arguments.dtype}: leave it or --dtype out")
    for name in ("samples", "sampler", "target", "known", "guidance"):
        if getattr(arguments, name) not in (None, []) and not arguments.evaluators:
            raise UsageError(f"--{name} has no effect without an --evaluator: give one, or leave it out")
    if (arguments.loss or arguments.evaluators) and not arguments.likelihood:
        for name in values_of(arguments, ("repeats", "probes")):
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
    from scoresde_run.models import checkpoint
    from ..evaluate.checkpoints import Choice, as_they_appear, chosen_checkpoints
    from ..evaluate.plan import Planner, Request
    from ..evaluate.rows import Evaluation, metric_texts

    choice, own = Choice(arguments.models), _own(arguments, registry)
    # A run may be writing at this moment, so all processes use what process 0 found.
    folders = [
        given if given.exists() or len(given.parts) > 1 else checkpoint.find(given, registry).folder
        for given in arguments.folders
    ]
    asked = [*processes.exchange(chosen_checkpoints(folders, choice, arguments.wait is not None))[0], *own]
    request = Request(**{field.name: getattr(arguments, field.name) for field in attrs.fields(Request)})
    planner = Planner(registry, request, processes.device, arguments.download)
    for each in asked:
        planner.expected(each)
    if processes.first:
        stack.enter_context(locked(arguments.out, "evaluating"))
        clean(arguments.out)
    if processes.first and (slow := slow_precision(processes.device, arguments.precision)):
        print(f"warning: {slow}", file=sys.stderr)
    progress = stack.enter_context(Progress(processes.first))
    evaluation = Evaluation(planner, arguments.out, processes, progress, shlex.join(["scoresde", *sys.argv[1:]]))

    def evaluate() -> int:
        coming = as_they_appear(asked, (arguments.wait or 0.0) * 60, processes, progress.say)
        rows = [evaluation.run(each, folder) for each, folder in coming]
        progress.stop()
        if processes.first:
            for row in rows:
                told = [row["reason"]] if row["status"] == "failed" else metric_texts(row["metrics"])
                print(f"{row['checkpoint']}: {'; '.join(told)}")
            for warning in warnings_of(rows):
                print(f"warning: {warning}")
            print(f"rows: {arguments.out / RESULTS}")
        return 1 if any(row["status"] == "failed" for row in rows) else 0

    return evaluate


def _own(arguments: argparse.Namespace, registry: Registry) -> list[ChosenCheckpoint]:
    """The network that brings its weights, if one is given."""
    from scoresde_run import Checkpoint
    from scoresde_run.commands.presets import own_config
    from ..evaluate.checkpoints import ChosenCheckpoint

    check_weights(arguments)
    if arguments.network is None:
        return []
    typed = {"weights": arguments.weights, "parameterisation": arguments.parameterisation}
    config = own_config(registry, arguments.network, arguments.sde, **typed)
    arguments.weights, name = None, str(config.model.network)
    return [ChosenCheckpoint(Path(name), own=Checkpoint(Path(name), config, 0, {}, {}, name))]
