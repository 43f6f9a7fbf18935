"""The checkpoints to evaluate: folders, and choices among the models of a training run.

    last            the newest
    best            the one with the lowest logged test loss
    all             every one
    configured      from evaluation.first_checkpoint to evaluation.last_checkpoint, counted in snapshots
    5000,10000      those of these steps
    5000-20000      those from one step to another, both included

With ``--wait``, a choice is among the models that the finished run will have.
"""

import math
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
from scoresde_core import FileError, Registry, UsageError
from scoresde_run import Config, Processes
from scoresde_run.commands.options import check_weights
from scoresde_run.commands.presets import own_config
from scoresde_run.machine import inputs
from scoresde_run.models import checkpoint
from scoresde_run.training.run import CONFIG, METRICS, MODELS
from scoresde_run.training.state import name_of

POLL_SECONDS = 5.0
_WORDS = ("last", "best", "all", "configured")


@attrs.frozen
class RunFolder:
    """The folder of a training run."""

    folder: Path
    config: Config

    def saved(self) -> list[int]:
        """The steps of the saved models, ascending."""
        found = (self.folder / MODELS).glob(f"step_[0-9]*/{checkpoint.INDEX}")
        return sorted(int(path.parent.name.removeprefix("step_")) for path in found)

    def planned(self) -> list[int]:
        """The steps at which the run saves a model, ascending."""
        every, last = self.config.training.snapshot_every, self.config.training.iterations
        return [*range(every, last, every), last]

    def model(self, step: int) -> Path:
        """The folder of the model of ``step``."""
        return self.folder / MODELS / name_of(step)

    def best(self) -> int:
        """The step with the lowest finite test loss among the saved models."""
        losses, saved, path = {}, self.saved(), self.folder / METRICS
        for line in inputs.text(path, None, "replace").splitlines() if path.is_file() else []:
            with suppress(ValueError, KeyError, TypeError):  # a kill may have cut the line short
                row = inputs.loads(line)
                losses[int(row["step"])] = float(row["evaluation_loss"])
        finite = [step for step in saved if math.isfinite(losses.get(step, math.nan))]
        if not finite:
            remedy = "train with a training.evaluate_every that divides training.snapshot_every, or choose --models all"
            raise UsageError(f"{path} has no evaluation_loss at the step of a model, so none is the best: {remedy}")
        return min(finite, key=lambda step: losses[step])


class Choice:
    """A choice among a run's models, as typed: a word, single ``steps``, or the ends of a range of them."""

    def __init__(self, text: str) -> None:
        self.word, self.steps, self.ends = text if text in _WORDS else "", tuple[int, ...](), tuple[int, ...]()
        if re.fullmatch(r"\d+-\d+", text):
            self.ends = tuple(map(int, text.split("-")))
            if self.ends[0] > self.ends[1]:
                raise UsageError(f"--models {text} has no step in it: write the smaller one first")
        elif re.fullmatch(r"\d+(,\d+)*", text):
            self.steps = tuple(sorted(set(map(int, text.split(",")))))
        elif not self.word:
            words = f"{', '.join(_WORDS)}, steps such as 5000,10000, or a range 5000-20000"
            raise UsageError(f"cannot read --models {text}: write {words}")

    def among(self, run: RunFolder, steps: Sequence[int]) -> list[int]:
        """The chosen ones of ``steps``; single steps are chosen even if they are not in ``steps``."""
        if self.word == "last":
            return list(steps[-1:])
        if self.steps or self.word == "all":
            return list(self.steps or steps)
        chosen, every = run.config.evaluation, run.config.training.snapshot_every
        first, last = self.ends or (chosen.first_checkpoint * every, chosen.last_checkpoint * every)
        return [step for step in steps if first <= step <= last]


@attrs.frozen
class ChosenCheckpoint:
    """A checkpoint to evaluate: a folder, or the best model of a run once it is finished."""

    folder: Path
    run: RunFolder | None = None  # the run that makes it
    best: bool = False
    own: checkpoint.Checkpoint | None = None  # a network that brings its weights, which has no folder

    @property
    def step(self) -> int | None:
        """The training step in the name of its folder; None outside a run."""
        named = re.fullmatch(r"step_0*(\d+)", self.folder.name)
        return int(named[1]) if named and self.run is not None else None

    @property
    def name(self) -> str:
        """Its folder, or which model of a run it is."""
        return f"the best of {self.folder}" if self.best else str(self.folder)

    def find(self) -> Path | None:
        """Its folder, None as long as it does not exist."""
        if self.best and self.run is not None:
            return self.run.model(self.run.best()) if _exists(self.run.model(self.run.planned()[-1])) else None
        return self.folder if self.own is not None or _exists(self.folder) else None


def chosen_checkpoints(folders: Sequence[Path], choice: Choice, wait: bool) -> list[ChosenCheckpoint]:
    """The checkpoints that ``folders`` and ``choice`` name; unless ``wait``, raise if one is missing."""
    found: list[ChosenCheckpoint] = []
    for folder in folders:
        if _exists(folder):
            models, run = folder.absolute().parent, None
            if models.name == MODELS:
                with suppress(FileError):
                    run = RunFolder(models.parent, Config.read(models.parent, CONFIG))
            found.append(ChosenCheckpoint(folder, run))
        elif (folder / CONFIG).is_file():
            found += _of_run(RunFolder(folder, Config.read(folder, CONFIG)), choice, wait)
        else:
            what = f"neither {checkpoint.INDEX} nor {CONFIG} in it" if folder.is_dir() else "no such folder"
            raise UsageError(f"{folder} is neither a checkpoint nor a training run: there is {what}")
    return list({each.name: each for each in found}.values())


def asked_checkpoints(asked: Namespace, registry: Registry, processes: Processes) -> list[ChosenCheckpoint]:
    """The checkpoints that the command names, and the network that brings its weights, if one is given."""
    choice, own = Choice(asked.models), []
    check_weights(asked)
    if asked.network is not None:
        typed = {"weights": asked.weights, "parameterisation": asked.parameterisation}
        config = own_config(registry, asked.network, asked.sde, **typed)
        asked.weights, name = None, str(config.model.network)
        own = [ChosenCheckpoint(Path(name), own=checkpoint.Checkpoint(Path(name), config, 0, {}, {}, name))]
    folders = [p if p.exists() or len(p.parts) > 1 else checkpoint.find(p, registry).folder for p in asked.folders]
    # A run may be writing at this moment, so all processes use what process 0 found.
    return [*processes.exchange(chosen_checkpoints(folders, choice, asked.wait is not None))[0], *own]


def as_they_appear(
    chosen: Sequence[ChosenCheckpoint], seconds: float, processes: Processes, say: Callable[[str], None]
) -> Iterator[tuple[ChosenCheckpoint, Path | None]]:
    """Yield each with its folder once it exists, or None after ``seconds`` without any; all follow process 0."""
    pending, since, said = list(chosen), time.monotonic(), ""
    while pending:
        late = time.monotonic() - since >= seconds
        look, late = processes.exchange(([each.find() for each in pending], late))[0]
        found = [(each, folder) for each, folder in zip(pending, look, strict=True) if folder is not None]
        for each, folder in found:
            yield each, folder
            since = time.monotonic()
        pending = [each for each, folder in zip(pending, look, strict=True) if folder is None]
        if found or not pending:
            continue
        if late:
            yield from ((each, None) for each in pending)
            return
        if pending[0].name != said:
            said = pending[0].name
            say(f"waiting for {said}, for at most {seconds / 60:g} minutes")
        time.sleep(min(POLL_SECONDS, seconds))


def _exists(folder: Path) -> bool:
    return (folder / checkpoint.INDEX).exists()


def _of_run(run: RunFolder, choice: Choice, wait: bool) -> list[ChosenCheckpoint]:
    """The chosen ones of the models that a run has or, with ``wait``, will have."""
    saved, planned, training = run.saved(), run.planned(), run.config.training
    if wait and choice.word == "best":
        if training.evaluate_every is None:
            raise UsageError(f"{run.folder} trains with training.evaluate_every=null: none of its models is the best")
        return [ChosenCheckpoint(run.folder, run, best=True)]
    steps = sorted({*planned, *saved}) if wait else saved
    chosen = [run.best()] if choice.word == "best" and saved else choice.among(run, steps)
    missing = sorted(set(chosen) - set(steps))
    if missing or not chosen:
        what = f"model of step {missing[0]}" if missing else "such model"
        if not wait:
            listed = ", ".join(map(str, saved)) or "none so far"
            raise UsageError(f"{run.folder} has no {what}: it has {listed} (--wait MINUTES waits for more)")
        every = f"one every {training.snapshot_every} steps, and at" if missing else f"{planned[0]} to"
        raise UsageError(f"{run.folder} will have no {what}: it saves {every} {planned[-1]}")
    return [ChosenCheckpoint(run.model(step), run) for step in chosen]
