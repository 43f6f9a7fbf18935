"""``scoresde train``: trains a preset in a folder; the same command resumes a run that was stopped or killed."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, FileError, Registry, UsageError
from ..machine.files import locked
from ..machine.progress import Progress, in_words
from ..models.config import RECORDED, TrainingConfig
from .options import add_shared
from .presets import find_preset

if TYPE_CHECKING:
    from ..machine.processes import Processes
    from ..training.run import Event, TrainingRun
    from ..training.trainer import TrainingPlan

_LEVELS = ("error", "warning", "info", "debug")


@attrs.frozen
class TrainCommand(Command):
    """Trains a preset in a folder: ``scoresde train PRESET KEY=VALUE --out DIR``; an existing run is resumed."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("preset", metavar="PRESET", help="a preset's name, or a .yaml file: a run's config.yaml")
        add_run(parser)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        if "=" in arguments.preset:
            raise UsageError(f"name a preset before {arguments.preset!r}: scoresde train PRESET KEY=VALUE --out DIR")
        config = find_preset(registry, arguments.preset).override(arguments.changes)
        keys = {change.partition("=")[0].strip() for change in arguments.changes}
        for name in (name for name in RECORDED if f"model.{name}" in keys):
            what = "the data set states it" if name == "levels" else f"set data.{name}, or data.standardise=true"
            raise UsageError(f"model.{name} is recorded by training, and has no effect on it: {what}")
        if arguments.tensorboard:
            _tensorboard_or_raise()

        # Imports torch, so not before the options are checked.
        from ..training.run import with_recorded_units
        from ..training.trainer import plan_training

        config = with_recorded_units(config, arguments.out, arguments.fresh)
        return run_training(arguments, registry, lambda _: plan_training(config, registry, download=arguments.download))


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training run."""
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes, such as training.batch_size=64")
    add_shared(parser, "device", "download", out="the run's folder; a run is resumed")
    parser.add_argument("--fresh", action="store_true", help="start again; a run is moved to DIR.1, DIR.2, ...")
    text = "begin with these weights: the folder or name of a model or run; or with a state in checkpoints/"
    parser.add_argument("--from", dest="source", metavar="CHECKPOINT", help=text)
    parser.add_argument("--tensorboard", action="store_true", help="also write event files for TensorBoard")
    parser.add_argument("--log-level", default="info", choices=_LEVELS, help="least level of messages (default: info)")
    parser.set_defaults(rest="changes")


def run_training(arguments: argparse.Namespace, registry: Registry, plan: Callable[[Processes], TrainingPlan]) -> int:
    """Train ``plan`` in ``arguments.out``, with options of :func:`add_run`, or resume the run there."""
    from ..machine.processes import joined

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())  # which are a line each, without their place in the code
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        try:
            processes = stack.enter_context(joined(arguments.device))
            signals = _stop_signals(stack)
            run = _prepare(arguments, registry, plan(processes), processes, stack)
        except (UsageError, FileError) as error:
            # All processes of a machine raise the same error, which may differ from another machine's.
            if os.environ.get("LOCAL_RANK", "0") == "0":
                raise
            raise SystemExit(error.exit_code) from error
        run.stop = lambda: bool(signals)
        _train(run, arguments, stack)
    return 130 if signal.SIGINT in signals else 0


def _prepare(
    arguments: argparse.Namespace, registry: Registry, plan: TrainingPlan, processes: Processes, stack: ExitStack
) -> TrainingRun:
    """Check everything, cheap things first, and build the run with its initial weights."""
    from ..machine.device import slow_precision
    from ..models import checkpoint
    from ..training.run import CHECKPOINTS, TrainingRun, check_resumable
    from ..training.state import latest_step

    def build() -> TrainingRun:
        run = TrainingRun(plan.build(processes), arguments.out, registry.hook)
        if arguments.source is not None and (arguments.fresh or latest_step(arguments.out / CHECKPOINTS) is None):
            source = Path(arguments.source)
            run.start_from(source if source.exists() else checkpoint.find(arguments.source, registry).folder)
        return run

    if processes.first and (slow := slow_precision(processes.device, plan.config.training.precision)):
        print(f"warning: {slow}", file=sys.stderr)
    # An existing run is moved only after the new one has been built.
    fresh = build() if arguments.fresh else None
    processes.wait()  # until all have read the initial weights, which may be in the run that is moved
    if processes.first:
        if arguments.fresh:
            _move_away(arguments.out)
        stack.enter_context(_locked_run(arguments.out))
    processes.wait()
    check_resumable(arguments.out, plan.config)
    return fresh or build()


def _train(run: TrainingRun, arguments: argparse.Namespace, stack: ExitStack) -> None:
    shown = run.first and arguments.log_level in ("info", "debug")
    _log(arguments.log_level if run.first else "error", stack)
    writer, first = None, True
    progress = stack.enter_context(Progress(shown))
    for event in run:
        _show(event, progress, run.training, first, arguments.log_level == "debug")
        first &= event.what != "loss"
        if event.what == "begin" and arguments.tensorboard and run.first:
            # Steps after this one, which a killed run wrote, are hidden.
            writer = _tensorboard_or_raise()(run.folder / "tensorboard", purge_step=event.step + 1)
        if writer is not None:
            for name, value in event.numbers.items():
                writer.add_scalar(name, value, event.step)
            writer.flush()
        if event.what == "stopped" and shown:
            print(f"stopped after step {event.step}, its state saved: repeat the command to resume", file=sys.stderr)
        if event.what == "done" and run.first:
            print(f"{event.step} steps; the model is in {run.folder}: {run.trainer.use.format(run.folder)}")


def _show(event: Event, progress: Progress, training: TrainingConfig, due: bool | None, verbose: bool) -> None:
    """A bar with loss and speed, or a line every ten seconds and where ``due``; ``verbose``, a line for every event."""
    total = training.iterations

    def line(text: str) -> str:
        return f"step {event.step} of {total}: {text}"

    if event.what == "loss":
        text = f"loss {event.numbers['loss']:.4g}, {event.numbers['events_per_second']:.4g} events/s"
        left = (total - event.step) * training.batch_size / max(event.numbers["events_per_second"], 0.01)
        more = f", about {in_words(left)} left" if left > 3600 else ""
        progress.show(text, event.step, total, line(text + more), due or verbose or event.step == total or None)
    elif event.what == "begin" and event.step:
        progress.show("training", event.step, total, line("resumed"), True)
    elif event.what == "model" or (event.what == "checkpoint" and verbose):
        progress.say(line(f"saved {event.path}"))
    elif event.what == "evaluation" and verbose:
        progress.say(line(f"test loss {event.numbers['evaluation_loss']:.4g}"))


def _log(level: str, stack: ExitStack) -> None:
    """Print the library's log from ``level`` on to the current stderr, which a progress bar replaces."""
    logger, handler = logging.getLogger("scoresde_run"), logging.Handler()
    handler.emit = lambda record: print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)  # type: ignore[method-assign]
    stack.callback(logger.setLevel, logger.level)
    stack.callback(logger.removeHandler, handler)
    logger.addHandler(handler)
    logger.setLevel(level.upper())


def _stop_signals(stack: ExitStack) -> list[int]:
    """A list of the stop signals so far: SIGTERM, or the first Ctrl-C (the second has its usual effect)."""
    signals: list[int] = []
    usual = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        signals.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, usual)

    for number in (signal.SIGTERM, signal.SIGINT):
        stack.callback(signal.signal, number, signal.signal(number, note))
    return signals


def _locked_run(folder: Path) -> AbstractContextManager[None]:
    """Make the run's folder if it is missing, and lock it."""
    from ..training.run import CONFIG

    if folder.exists() and not (folder.is_dir() and ((folder / CONFIG).is_file() or not any(folder.glob("[!.]*")))):
        raise FileError(f"{folder} exists and is not a training run: choose another --out")
    return locked(folder, "training")


def _move_away(folder: Path) -> None:
    """Move a run to the first free DIR.1, DIR.2, ..."""
    if not folder.exists():
        return
    places = (folder.with_name(f"{folder.name}.{number}") for number in count(1))
    place = next(place for place in places if not place.exists())
    with _locked_run(folder):
        folder.rename(place)
    print(f"moved the run in {folder} to {place}", file=sys.stderr)


def _tensorboard_or_raise() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs TensorBoard: pip install 'scoresde[track]'") from error
    return SummaryWriter
