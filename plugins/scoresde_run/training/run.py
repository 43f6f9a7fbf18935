"""A training run in a folder: it trains, logs, evaluates, saves and samples, and can be stopped and resumed.

    config.yaml             the whole configuration; ``scoresde train config.yaml`` repeats the run
    metrics.jsonl           one line for each logged loss and each evaluation
    checkpoints/            the newest training states (:mod:`scoresde_run.training.state`)
    models/step_.../        models that are kept (:mod:`scoresde_run.models.checkpoint`); the last is the result
    samples/step_....png    samples of each of these models

Every run begins at the newest state in its folder, or at step 0: resuming is not a separate mode.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from scoresde_core import OURS, FileError, ScoreSDEError, UsageError
from scoresde_core.plugins import one_line
from ..machine import files, inputs
from ..machine.digest import sealed
from ..models import checkpoint
from ..models.config import RECORDED, Config, ModelConfig
from ..results import picture
from . import state as training_state
from .state import name_of
from .trainer import Trainer

log = logging.getLogger(__name__)

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
CHECKPOINTS, MODELS, SAMPLES = "checkpoints", "models", "samples"

FREE = ("training.iterations", "training.log_every", "training.evaluate_every", "training.evaluate_batches",
        "training.resume_every", "training.keep", "training.snapshot_every", "data.workers", "data.dataset.root",
        "data.dataset.download", "sampling", "evaluation", "source", "quirks")  # fmt: skip
"""Keys that may differ in a resumed run, because they change no training step."""


@attrs.frozen
class Event:
    """An event after ``step`` steps, with its numbers."""

    what: Literal["begin", "loss", "evaluation", "checkpoint", "model", "stopped", "done"]
    step: int
    numbers: Mapping[str, float] = {}
    path: Path | None = None


class TrainingRun:
    """A trainer with its folder; iterate to train. Once ``stop()`` returns true, it saves its state and ends."""

    def __init__(self, trainer: Trainer, folder: Path, hook: Any, stop: Callable[[], bool] = lambda: False) -> None:
        self.trainer, self.folder, self.stop = trainer, folder, stop
        self.state, self.training = trainer.state, trainer.plan.config.training
        self.first, self.hook = trainer.processes.first, hook
        self._restart_clock()

    def __iter__(self) -> Iterator[Event]:
        """Yield events from the newest state to the last step or a stop; every process must iterate."""
        self._resume()
        yield Event("begin", self.state.step)
        if self.state.step >= self.training.iterations:
            # A run that was stopped at this step, and is asked for no more, has not written its model yet.
            if self.trainer.processes.any(not (self.folder / MODELS / name_of(self.state.step)).exists()):
                yield self._save_model()
            yield Event("done", self.state.step)
            return
        self._restart_clock()
        for loss in self.trainer.steps():
            step, last = self.state.step, self.state.step >= self.training.iterations
            self._steps_since += 1
            self.hook.scoresde_on_training_step(step=step, loss=loss, state=self.state)
            if step % self.training.log_every == 0 or last:
                yield self._log_loss()
            # Several processes agree on a stop only when they log, because agreeing costs a message.
            ask = not last and (self.trainer.processes.count == 1 or step % self.training.log_every == 0)
            stopped = ask and self.trainer.processes.any(self.stop())
            if self._due(self.training.evaluate_every, last):
                yield self._record(Event("evaluation", step, {"evaluation_loss": self.trainer.evaluate()}))
                self._restart_clock()
            if self._due(self.training.snapshot_every, last):
                yield self._save_model()
            if stopped or self._due(self.training.resume_every, last):
                yield self._save_state()
            if stopped or last:
                yield Event("stopped" if stopped else "done", step)
                return

    def start_from(self, source: Path) -> None:
        """Begin this run with the weights of a model, or with a whole training state."""
        if (source / training_state.INDEX).is_file():
            saved = training_state.read(source)
            training_state.restore(self.state, saved, saved.tensors())
            return
        weights, averages = checkpoint.read(source).states()
        own = self.state.network.state_dict()
        # An embedding of classes is zero at first, so an unconditional model goes on as it is.
        weights = {name: value for name, value in own.items() if name.startswith("class_embedding.")} | weights
        checkpoint.check_fit(own, weights, source)
        self.state.network.load_state_dict(weights)
        if self.state.average is not None:
            with torch.no_grad():
                for name, value in self.state.average.parameters.items():
                    value.copy_(averages.get(name, weights[name]))

    def _resume(self) -> None:
        """Restore the newest state, and drop the metrics of the steps after it, which will be repeated."""
        folder = self.folder / CHECKPOINTS
        if self.first:
            files.clean(self.folder)
        self.trainer.processes.wait()
        check_resumable(self.folder, self.trainer.plan.config)
        if (found := training_state.newest(folder)) is not None:
            training_state.restore(self.state, *found)
        steps = self.trainer.processes.exchange(self.state.step)
        if len(set(steps)) > 1:
            raise FileError(f"the processes see different steps {steps} in {folder}: they must share one folder")
        if self.first:
            # First of all, because a folder with a configuration is a run, and one with anything else is not.
            files.write(self.folder / CONFIG, sealed(self.trainer.plan.config.to_yaml().encode(), "# {}"))
            for place in (folder, self.folder / MODELS, self.folder / SAMPLES):
                with files.writing(place):
                    files.make(place.absolute())
            training_state.drop(folder, self.state.step, self.training.keep)  # that a kill has left
            _drop_after(self.folder / METRICS, self.state.step)

    def _due(self, every: int | None, last: bool) -> bool:
        return every is not None and (last or self.state.step % every == 0)

    def _log_loss(self) -> Event:
        rate, norm = self.trainer.learning_rate(self.state.step - 1), self.trainer.gradient_norm
        loss = self.trainer.read_loss()
        speed = self._steps_since * self.training.batch_size / (time.perf_counter() - self._since)
        numbers = {"loss": loss, "learning_rate": rate, "events_per_second": round(speed, 2)}
        if norm is not None and math.isfinite(value := float(norm)):  # else the loss scale was too large: no step
            numbers["gradient_norm"] = value
        self._restart_clock()
        if not math.isfinite(loss):
            raise self._divergence(f"the loss is {loss}")
        return self._record(Event("loss", self.state.step, numbers))

    def _save_state(self) -> Event:
        self._check_finite()
        # Process 0 saves its state, which any number of processes may resume, so its loss sum is the mean of all.
        self.state.losses = self.trainer.processes.total(self.state.losses) / self.trainer.processes.count
        path = self.folder / CHECKPOINTS / name_of(self.state.step)
        if self.first:
            with files.writing(metrics := self.folder / METRICS):  # a run goes on from here: what is before must stay
                if metrics.exists():
                    files.flush(metrics)
                    files.flush(self.folder)
            training_state.save(path.parent, self.state, self.trainer.plan.config, self.training.keep, metrics)
            self.hook.scoresde_on_checkpoint(path=path, state=self.state)
        self.trainer.processes.wait()
        self._restart_clock()
        return Event("checkpoint", self.state.step, path=path)

    def _save_model(self) -> Event:
        """Save a model and a picture of its samples, unless an earlier life of this run has done so."""
        self._check_finite()
        name = name_of(self.state.step)
        path = self.folder / MODELS / name
        if self.first and not path.exists():
            averages = None if self.state.average is None else self.state.average.parameters
            about = {"source": "scoresde train", "torch": str(torch.__version__)}
            weights, plan = self.state.network.state_dict(), self.trainer.plan
            how: dict[str, Any] = {"step": self.state.step, "provenance": about, "plugins": plan.model.plugins}
            checkpoint.save(path, plan.config, weights, averages, **how)
            self.hook.scoresde_on_checkpoint(path=path, state=self.state)
        if self.first:
            self._save_picture(self.folder / SAMPLES / f"{name}.png")
        self.trainer.processes.wait()
        self._restart_clock()
        return Event("model", self.state.step, path=path)

    def _save_picture(self, path: Path) -> None:
        if not self.trainer.generates or path.exists():
            return
        try:
            picture.draw(path, self.trainer.plan.model.units, self.trainer.sample())
        except Exception as error:  # a sampler may raise anything, and the weights do not need their picture
            log.warning("no picture %s: %s; the training goes on", path, one_line(error))

    def _check_finite(self) -> None:
        # The losses differ between processes: all must end together, or the others would wait for one that is gone.
        if self.trainer.processes.any(not self.state.finite()):
            raise self._divergence("a parameter or the loss is not finite")

    def _divergence(self, what: str) -> ScoreSDEError:
        """The error of a run that diverged; the states on disk are older."""
        step = training_state.latest_step(self.folder / CHECKPOINTS, self.state.step)
        good = "no state was saved before" if step is None else f"the last good state is {CHECKPOINTS}/{name_of(step)}"
        go_on = "take" if step is None else f"go on from it with --from {self.folder / CHECKPOINTS / name_of(step)},"
        remedy = f"{go_on} another --out and a lower training.learning_rate or training.gradient_clip"
        return ScoreSDEError(f"training diverged at or before step {self.state.step}: {what}; {good}: {remedy}")

    def _record(self, event: Event) -> Event:
        if self.first:
            line, path = json.dumps({"step": event.step, **event.numbers}), self.folder / METRICS
            with files.writing(path), path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return event

    def _restart_clock(self) -> None:
        """Restart the clock of the training speed, which excludes evaluation, sampling and saving."""
        self._since, self._steps_since = time.perf_counter(), 0


def difference(old: Config, new: Config) -> list[str]:
    """The differences of two configurations that change a training step, as ``key: old -> new``; see :data:`FREE`."""
    before, after = _flat(old.plain()), _flat(new.plain())
    before, after = _aligned(before, after), _aligned(after, before)
    if before.get("model.levels") == "auto":  # the run is older than this key
        before["model.levels"] = after.get("model.levels")
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    parts = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in FREE)]
    return [f"{key}: {before.get(key, 'not given')} -> {after.get(key, 'not given')}" for key in parts]


def with_recorded_units(config: Config, folder: Path, fresh: bool = False) -> Config:
    """``config`` with the units that the run in ``folder`` recorded; without any if a new run is to begin."""
    if fresh or training_state.latest_step(folder / CHECKPOINTS) is None:
        fields = attrs.fields_dict(ModelConfig)
        found: dict[str, Any] = {name: fields[name].default for name in RECORDED}
    else:
        model = Config.read(folder, CONFIG).model
        found = {name: getattr(model, name) for name in RECORDED}
    return attrs.evolve(config, model=attrs.evolve(config.model, **found))


def check_resumable(folder: Path, config: Config) -> None:
    """Raise :class:`UsageError` if ``folder`` holds a run that ``config`` would change."""
    if training_state.latest_step(folder / CHECKPOINTS) is None:
        return
    if changes := difference(Config.read(folder, CONFIG), config):
        remedy = "undo the change, choose another --out, or start again with --fresh"
        raise UsageError(f"{folder} holds a run with another configuration ({'; '.join(changes)}): {remedy}")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{"a.b": value}``; names without us as owner, which only clashing ones have."""
    if not isinstance(value, Mapping):
        return {prefix: value.removeprefix(f"{OURS}:") if isinstance(value, str) else value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _aligned(flat: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``flat`` with bare component names under the key ``.name``, where the component has parameters in ``other``."""
    return {f"{key}.name" if f"{key}.name" in other else key: value for key, value in flat.items()}


def _drop_after(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and incomplete lines that a kill left."""
    if not path.exists():
        return
    kept = []
    for line in inputs.text(path, None, "replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if inputs.loads(line)["step"] <= step:
                kept.append(line + "\n")
    files.write(path, "".join(kept))
