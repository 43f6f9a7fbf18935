"""The command line of ``scoresde evaluate``."""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import Command, FileError, Registry, UsageError
from scoresde_run.commands.options import SHARED, add_shared, check_counts, check_fractions, values_of

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
        from ..evaluate.rows import prepare

        return run_together(arguments.device, partial(prepare, arguments, registry))


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
