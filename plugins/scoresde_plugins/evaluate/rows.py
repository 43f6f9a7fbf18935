"""Evaluations: one row for each checkpoint. Every process computes batches, and process 0 writes.

Every outcome, a failure too, is a row, and the processes agree on it at every stage.
"""

import json
import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scoresde_core import FileError, Registry, ScoreSDEError
from scoresde_run import Checkpoint, Processes, Progress, Row
from scoresde_run.machine import environment, files
from scoresde_run.machine.device import PRECISIONS, slow_precision
from scoresde_run.machine.progress import step_observer
from scoresde_run.results import picture
from scoresde_run.results.digests import digest
from scoresde_run.results.results import Results
from scoresde_run.results.rows import SCHEMA, changed, warnings_of
from scoresde_run.sampling.samples import valueless
from .checkpoints import ChosenCheckpoint, as_they_appear, asked_checkpoints
from .measure import Failed, Measure, MeasuredModel, compute, together
from .measures import Draw, Judgement
from .plan import EvaluationPlan, Planner

_NOTHING: Row = dict.fromkeys(
    ("target", "checkpoint", "training_step", "network", "sde", "sampler", "predictor", "corrector", "grid", "steps",
     "samples", "batch_size", "nfe", "seconds", "samples_per_second", "picture")
)  # fmt: skip


def prepare(arguments: Namespace, registry: Registry, processes: Processes, stack: ExitStack) -> Callable[[], int]:
    """Check everything before anything is computed; what is returned computes it, and returns the exit code."""
    asked, planner = asked_checkpoints(arguments, registry, processes), Planner(registry, arguments, processes.device)
    for each in asked:
        planner.expected(each)
    if processes.first:
        stack.enter_context(files.locked(arguments.out, "evaluating"))
        files.clean(arguments.out)
    if processes.first and (slow := slow_precision(processes.device, arguments.precision)):
        print(f"warning: {slow}", file=sys.stderr)
    evaluation = Evaluation(planner, processes, progress := stack.enter_context(Progress(processes.first)))

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
            print(f"rows: {arguments.out / 'results.jsonl'}")
        return 1 if any(row["status"] == "failed" for row in rows) else 0

    return evaluate


class Evaluation:
    """Evaluates checkpoints by ``planner``, with parts and rows in one folder; all processes make the same calls."""

    def __init__(self, planner: Planner, processes: Processes, progress: Progress) -> None:
        self.planner, self.processes, self.progress = planner, processes, progress
        self.registry, self.request, self.folder = planner.registry, planner.request, planner.request.out
        self.results = Results(self.folder) if processes.first else None
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
            if (known := self.processes.exchange(self._known(row))[0]) is not None:
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
        network = together(self.processes, lambda: found.load(self.registry, self.planner.ema).to(device, dtype))
        identity = {"weights": found.digest(self.planner.ema), **planned.model, **self.planner.lowered}
        score = network.score(autocast=PRECISIONS[self.request.precision])
        observe = step_observer(self.registry, self.progress.step if self.progress.live else None)
        model = MeasuredModel(score, device, dtype, identity, self.folder / "parts", observe)
        judged: Row = {}
        for stage in planned.stages:
            failed = compute(stage, model, self.processes, self.progress, row["checkpoint"])
            for measure in (measure for measure in stage if measure.title not in failed):
                add = together(self.processes, partial(self._summary, measure, model, row))
                add = self.processes.exchange(add)[0]
                judged |= add["metrics"] if isinstance(measure, Judgement) and measure.draw else {}
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
        cell = digest(_text([name, self.planner.asked, self.processes.device.type]).encode())
        return {
            **{"schema": SCHEMA, "cell": cell, "status": "done", "reason": None, **_NOTHING, "checkpoint": name},
            **{"parameters": {}, "seed": self.request.seed},
            "device": environment.describe_device(self.processes.device),
            **{"dtype": self.request.dtype, "precision": self.planner.lowered.get("precision"), "tf32": False},
            **{"evaluators": list(self.request.evaluators), "plugins": {}, "sources": {}, "files": {}},
            **{**environment.facts(), "command": shlex.join(["scoresde", *sys.argv[1:]]), "compile_seconds": 0.0},
            **{"metrics": {}, "metrics_skipped": {}, "costs": {}},
        }

    def _about(self, found: Checkpoint, planned: EvaluationPlan) -> Row:
        parameters = {"weights": found.digest(self.planner.ema), "ema": found.uses_ema(self.planner.ema)}
        parameters |= {**planned.model, **self.planner.lowered, **{m.title: m.settings for m in planned.measures}}
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
