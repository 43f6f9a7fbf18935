"""Which checkpoints: folders, and choices among the models that a training run keeps.

    last            the newest
    best            the one of the lowest test loss that training logged
    all             every one
    configured      from evaluation.first_checkpoint to evaluation.last_checkpoint, counted in snapshots
    5000,10000      those of these steps
    5000-20000      those from one step to another, both included

Waiting, a choice is among the models that the run will have made when it is through.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from scoresde_core.errors import FileError, UsageError
from scoresde_run.machine.processes import Processes
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config
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
        """The steps whose models are there, ascending."""
        found = (self.folder / MODELS).glob(f"step_[0-9]*/{checkpoint.INDEX}")
        return sorted(int(path.parent.name.removeprefix("step_")) for path in found)

    def planned(self) -> list[int]:
        """The steps at which the run leaves a model, ascending."""
        every, last = self.config.training.snapshot_every, self.config.training.iterations
        return [*range(every, last, every), last]

    def model(self, step: int) -> Path:
        """The folder of a model."""
        return self.folder / MODELS / name_of(step)

    def best(self) -> int:
        """The step of the lowest finite test loss among the models that are there."""
        losses = self._losses()
        found = {step: losses[step] for step in self.saved() if math.isfinite(losses.get(step, math.nan))}
        if not found:
            raise UsageError(
                f"{self.folder / METRICS} has no evaluation_loss at the step of a model, so none is the best: "
                "train with a training.evaluate_every that divides training.snapshot_every, or choose --models all"
            )
        return min(found, key=lambda step: found[step])

    def _losses(self) -> dict[int, float]:
        """The test loss of a step; a line that a kill cut short is none."""
        losses = {}
        path = self.folder / METRICS
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "evaluation_loss" in row:
                losses[int(row["step"])] = float(row["evaluation_loss"])
        return losses


@attrs.frozen
class Choice:
    """A choice among a run's models: a word, single ``steps``, or the ends of a range of them."""

    word: str = ""
    steps: tuple[int, ...] = ()
    ends: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Choice:
        """A choice as it is typed."""
        if text in _WORDS:
            return cls(text)
        if match := re.fullmatch(r"(\d+)-(\d+)", text):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise UsageError(f"--models {text} has no step in it: write the smaller one first")
            return cls(ends=(first, last))
        if re.fullmatch(r"\d+(,\d+)*", text):
            return cls(steps=tuple(sorted({int(step) for step in text.split(",")})))
        raise UsageError(
            f"cannot read --models {text}: write {', '.join(_WORDS)}, steps such as 5000,10000, or a range 5000-20000"
        )

    def among(self, run: RunFolder, steps: Sequence[int]) -> list[int]:
        """The chosen ones of ``steps``; single steps are chosen whether they are among them or not."""
        if self.word == "last":
            return list(steps[-1:])
        if self.word == "all":
            return list(steps)
        if self.steps:
            return list(self.steps)
        first, last = self.ends or self._configured(run)
        return [step for step in steps if first <= step <= last]

    @staticmethod
    def _configured(run: RunFolder) -> tuple[int, int]:
        chosen, every = run.config.evaluation, run.config.training.snapshot_every
        return chosen.first_checkpoint * every, chosen.last_checkpoint * every


@attrs.frozen
class ChosenCheckpoint:
    """A checkpoint that is to be evaluated: a folder, or the best model of a run once that is through."""

    folder: Path
    run: RunFolder | None = None
    """The run that it is a model of."""
    best: bool = False

    @classmethod
    def of(cls, folder: Path) -> ChosenCheckpoint:
        """A single checkpoint, with its run where it lies in one."""
        models = folder.absolute().parent
        run = None
        if models.name == MODELS:
            with suppress(FileError):
                run = RunFolder(models.parent, Config.read(models.parent, CONFIG))
        return cls(folder, run)

    @property
    def step(self) -> int | None:
        """The step of its run, which its folder is named after."""
        named = re.fullmatch(r"step_0*(\d+)", self.folder.name)
        return int(named[1]) if named and self.run is not None else None

    @property
    def name(self) -> str:
        """It in words."""
        return f"the best of {self.folder}" if self.best else str(self.folder)

    def find(self) -> Path | None:
        """Its folder, once it is there."""
        if self.best and self.run is not None:
            return self.run.model(self.run.best()) if _is_there(self.run.model(self.run.planned()[-1])) else None
        return self.folder if _is_there(self.folder) else None


def chosen_checkpoints(folders: Sequence[Path], choice: Choice, wait: bool) -> list[ChosenCheckpoint]:
    """What ``folders`` and ``choice`` stand for; raises where something is missing that is not to be waited for."""
    found: list[ChosenCheckpoint] = []
    for folder in folders:
        if _is_there(folder):
            found.append(ChosenCheckpoint.of(folder))
        elif (folder / CONFIG).is_file():
            run = RunFolder(folder, Config.read(folder, CONFIG))
            found += _to_come(run, choice) if wait else _present(run, choice)
        else:
            what = f"neither {checkpoint.INDEX} nor {CONFIG} in it" if folder.is_dir() else "no such folder"
            raise UsageError(f"{folder} is no checkpoint and no training run: there is {what}")
    return list({each.name: each for each in found}.values())


def as_they_appear(
    chosen: Sequence[ChosenCheckpoint], seconds: float, processes: Processes, say: Callable[[str], None]
) -> Iterator[tuple[ChosenCheckpoint, Path | None]]:
    """Each with its folder once it is there; None for those that do not come within ``seconds`` of the one before.

    Every process sees what the first one sees.
    """
    pending, since, said = list(chosen), time.monotonic(), ""
    while pending:
        late = time.monotonic() - since >= seconds
        look, late = processes.exchange(([each.find() for each in pending], late))[0]
        for each, folder in zip(pending, look, strict=True):
            if folder is not None:
                yield each, folder
                since = time.monotonic()
        came = any(look)
        pending = [each for each, folder in zip(pending, look, strict=True) if folder is None]
        if came or not pending:
            continue
        if late:
            yield from ((each, None) for each in pending)
            return
        if pending[0].name != said:
            said = pending[0].name
            say(f"waiting for {said}, for at most {seconds / 60:g} minutes")
        time.sleep(min(POLL_SECONDS, seconds))


def _is_there(folder: Path) -> bool:
    return (folder / checkpoint.INDEX).exists()


def _present(run: RunFolder, choice: Choice) -> list[ChosenCheckpoint]:
    saved = run.saved()
    listed = ", ".join(map(str, saved)) or "none so far"
    chosen = [run.best()] if choice.word == "best" and saved else choice.among(run, saved)
    missing = sorted(set(chosen) - set(saved))
    if missing or not chosen:
        what = f"of step {missing[0]}" if missing else "that was asked for"
        raise UsageError(f"{run.folder} has no model {what}: it has {listed} (--wait MINUTES waits for more)")
    return [ChosenCheckpoint(run.model(step), run) for step in chosen]


def _to_come(run: RunFolder, choice: Choice) -> list[ChosenCheckpoint]:
    planned = run.planned()
    never = [step for step in choice.steps if step not in planned and step not in run.saved()]
    if never:
        raise UsageError(
            f"{run.folder} will have no model of step {never[0]}: it leaves one every "
            f"{run.config.training.snapshot_every} steps, and at {planned[-1]}"
        )
    if choice.word == "best":
        if run.config.training.evaluate_every is None:
            raise UsageError(
                f"{run.folder} trains with training.evaluate_every=null, so none of its models is the best"
            )
        return [ChosenCheckpoint(run.folder, run, best=True)]
    chosen = choice.among(run, sorted({*planned, *run.saved()}))
    if not chosen:
        raise UsageError(f"{run.folder} will have no model that was asked for: it leaves {planned[0]} to {planned[-1]}")
    return [ChosenCheckpoint(run.model(step), run) for step in chosen]
