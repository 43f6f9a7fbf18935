"""Evaluations: one row for each checkpoint. Every process computes batches, and process 0 writes.

Every outcome, a failure too, is a row, and the processes agree on it at every stage.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scoresde_core import FileError, ScoreSDEError
from scoresde_run import Checkpoint, Processes, Progress, Row
from scoresde_run.machine import environment
from scoresde_run.machine.device import PRECISIONS
from scoresde_run.machine.progress import step_observer
from scoresde_run.results import picture
from scoresde_run.results.digests import digest
from scoresde_run.results.results import Results
from scoresde_run.results.rows import SCHEMA, changed
from scoresde_run.sampling.samples import valueless
from .checkpoints import ChosenCheckpoint
from .measure import Failed, Measure, MeasuredModel, compute, together
from .measures import Draw
from .plan import EvaluationPlan, Planner

PARTS = "parts"
_NOTHING: Row = dict.fromkeys(
    ("target", "checkpoint", "training_step", "network", "sde", "sampler", "predictor", "corrector", "grid", "steps",
     "samples", "batch_size", "nfe", "seconds", "samples_per_second", "picture")
)  # fmt: skip


class Evaluation:
    """Evaluates checkpoints by ``planner``, with parts and rows in ``folder``; all processes make the same calls."""

    def __init__(self, planner: Planner, folder: Path, processes: Processes, progress: Progress, command: str) -> None:
        self.planner, self.folder, self.processes = planner, folder, processes
        self.progress, self.command = progress, command
        self.registry, self.request = planner.registry, planner.request
        self.results = Results(folder) if processes.first else None
        if self.results:
            self.results.repair()

    def run(self, chosen: ChosenCheckpoint, folder: Path | None) -> Row:
        """Evaluate the checkpoint in ``folder`` (None: it did not appear); return a row, done or failed."""
        row = self._blank(chosen.name if folder is None else str(folder))
        try:
            if folder is None:
                raise Failed("it did not appear in time: is the training still running?")
            found, planned = together(self.processes, lambda: self.planner.open(chosen, folder))
            row |= {**planned.names, "checkpoint": str(found.folder), "training_step": found.step}
            row |= together(self.processes, partial(self._about, found, planned))
            known = self.processes.exchange(self._known(row))[0]
            if known is not None:
                self.progress.say(f"{chosen.name}: done before")
                return dict(known)
            self._measure(row, found, planned)
        except Failed as error:
            row |= self._names(chosen, row) | {"status": "failed", "reason": str(error), "traceback": error.trace}
            self.progress.say(f"{chosen.name}: failed: {error}")
        if self.results is not None:
            self.registry.hook.scoresde_on_result(row=row)
            self.results.append(row)
        return row

    def _names(self, chosen: ChosenCheckpoint, row: Row) -> Row:
        """The axes missing in ``row`` of a checkpoint that could not be opened, from its run's configuration."""
        try:
            planned = self.planner.expected(chosen)
        except ScoreSDEError:
            planned = None
        known = {"target": self.request.target, **(planned.names if planned else {}), "training_step": chosen.step}
        return {name: value for name, value in known.items() if row.get(name) is None}

    def _measure(self, row: Row, found: Checkpoint, planned: EvaluationPlan) -> None:
        """Add all measures to ``row``. If one fails, those before it remain."""
        device, dtype = self.processes.device, getattr(torch, self.request.dtype)
        environment.reset_peak_memory(device)
        network = together(self.processes, lambda: found.load(self.registry, self.request.ema).to(device, dtype))
        identity = {"weights": found.digest(self.request.ema), **planned.model, **self.request.lowered}
        score = network.score(autocast=PRECISIONS[self.request.precision])
        observe = step_observer(self.registry, self.progress.step if self.progress.live else None)
        model = MeasuredModel(score, device, dtype, identity, self.folder / PARTS, observe)
        judged: Row = {}
        for stage in planned.stages:
            failed = compute(stage, model, self.processes, self.progress, row["checkpoint"])
            for measure in (measure for measure in stage if measure.title not in failed):
                add = together(self.processes, partial(self._summary, measure, model, row))
                add = self.processes.exchange(add)[0]
                judged |= add["metrics"] if measure.of_samples else {}
                for key, value in add.items():
                    if isinstance(value, dict):  # the second of two metrics of one name gets the measure's title
                        old = row.get(key, {})
                        value = old | {n if n not in old else f"{n} ({measure.title})": v for n, v in value.items()}
                    row[key] = value
            for failure in failed.values():
                raise failure
        row["peak_memory_bytes"] = environment.peak_memory(device)
        if reason := valueless(judged):
            raise Failed(reason)

    def _summary(self, measure: Measure, model: MeasuredModel, row: Row) -> Row:
        """What a measure adds to the row; process 0 reads the parts of all processes."""
        if not self.processes.first:
            return {}
        parts = model.parts_of(measure)
        found = measure.summarise(list(parts.all(measure.count)))
        if isinstance(measure, Draw):
            path = self.folder / "pictures" / f"{row['cell']}.png"
            try:
                picture.draw(path, measure.plan.units, parts.load(0).tensors["x"], count=64)
                found["picture"] = str(path.relative_to(self.folder))
            except FileError as error:  # which the numbers do not need
                found["warnings"] = {"picture": str(error)}
        texts = metric_texts(found.get("metrics", {}))
        texts += [f"{title} skipped: {reason}" for title, reason in found.get("metrics_skipped", {}).items()]
        if found.get("nfe"):
            texts.append(f"samples, {found['nfe']:g} function evaluations each, {found['seconds']:.1f} s")
        for text in texts:
            self.progress.say(f"{row['checkpoint']}: {text}")
        return found

    def _blank(self, name: str) -> Row:
        """The row of a checkpoint of which only the name is known."""
        cell = digest(_text([name, self.request.plain, self.processes.device.type]).encode())
        return {
            **{"schema": SCHEMA, "cell": cell, "status": "done", "reason": None, **_NOTHING, "checkpoint": name},
            **{"parameters": {}, "seed": self.request.seed},
            "device": environment.describe_device(self.processes.device),
            **{"dtype": self.request.dtype, "precision": self.request.lowered.get("precision"), "tf32": False},
            "evaluators": list(self.request.evaluators),
            **{"plugins": {}, "sources": {}, "files": {}, **environment.facts(), "command": self.command},
            **{"compile_seconds": 0.0, "metrics": {}, "metrics_skipped": {}, "costs": {}},
        }

    def _about(self, found: Checkpoint, planned: EvaluationPlan) -> Row:
        parameters = {"weights": found.digest(self.request.ema), "ema": found.uses_ema(self.request.ema)}
        parameters |= {**planned.model, **self.request.lowered, **{m.title: m.settings for m in planned.measures}}
        depends = {name: planned.depends[name] for name in ("sources", "files")}
        return {"parameters": parameters, "plugins": planned.depends["versions"], **depends}

    def _known(self, row: Row) -> Row | None:
        """The row of an earlier command that measured the same of the same weights."""
        known = self.results.finished(row["cell"]) if self.results is not None else None
        if known is None or _text(known.get("parameters")) == _text(row["parameters"]):
            return known
        what = ", ".join(changed(known, row)) or "what it depends on"
        self.progress.say(f"{row['checkpoint']}: measured before with an earlier version of {what}: measured anew")
        return None


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, default=str)


def metric_texts(metrics: Row) -> list[str]:
    """``test_loss 0.1234 ± 0.0012`` for every metric of a row."""
    texts = []
    for name, metric in metrics.items():
        # A row on the disk has no NaN.
        value, error = (math.nan if metric[key] is None else metric[key] for key in ("value", "stderr"))
        number = f"{value:.6g}" + ("" if math.isnan(value) or math.isnan(error) else f" ± {error:.2g}")
        texts.append(f"{name} {number} {metric['unit']}".rstrip())
    return texts
