"""Running one cell: sample, time, count, judge. Whatever happens, the outcome is a row."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from scoresde_core.cli import environment
from scoresde_core.cli.results import Row
from scoresde_core.cli.rows import SCHEMA
from scoresde_core.errors import ScoreSDEError
from scoresde_core.evaluator import Evaluator, Evidence, Reference
from scoresde_core.plugins import one_line
from scoresde_core.registry import Registry
from scoresde_core.sampler import sample
from scoresde_core.score import ScoreModel

from .cells import Cell
from .pictures import sample_grid

Progress = Callable[[int, int], Any]


@attrs.define
class Bench:
    """What the cells of one command share: the registry, the evaluators, and the exact sets they are judged by."""

    registry: Registry
    folder: Path
    evaluators: dict[str, Evaluator]
    command: str
    tf32: bool = False
    _references: dict[Any, Reference] = attrs.field(factory=dict, init=False)
    _loaded: tuple[Any, ScoreModel] | None = attrs.field(default=None, init=False)

    def run(self, cell: Cell, progress: Progress | None = None) -> Row:
        """The cell's row, with status done, skip or failed."""
        device = torch.device(cell.device)
        row: Row = {
            "schema": SCHEMA,
            "cell": cell.key,
            "status": "skip" if cell.skip else "done",
            "reason": cell.skip,
            "checkpoint": None,
            "network": None,
            **cell.names,
            "steps": cell.steps,
            "parameters": cell.parameters,
            "seed": cell.seed,
            "samples": cell.samples,
            "batch_size": cell.batch_size,
            "device": environment.describe_device(device),
            "dtype": cell.dtype,
            "tf32": self.tf32,
            "plugins": cell.versions,
            **environment.facts(),
            "command": self.command,
        }
        if row["status"] == "done":
            try:
                row |= self._measure(cell, device, progress)
            except Exception as error:
                row |= {"status": "failed", "reason": _reason(error), "traceback": traceback.format_exc()}
        self.registry.hook.scoresde_on_result(row=row)
        return row

    def _measure(self, cell: Cell, device: torch.device, progress: Progress | None) -> Row:
        dtype = getattr(torch, cell.dtype)
        model, shape = self._load(cell, device, dtype), cell.subject.shape
        listeners = self.registry.hook.scoresde_on_sampling_step.get_hookimpls()

        def observe(done: int, total: int, x: Tensor) -> None:
            if progress is not None:
                progress(done, total)
            if listeners:
                self.registry.hook.scoresde_on_sampling_step(done=done, total=total, x=x)

        # The first call pays for lazy initialisation; it is neither timed nor counted.
        with torch.no_grad():
            model.evaluate(torch.zeros(1, *shape, device=device, dtype=dtype), cell.subject.sde.level(torch.ones(())))
        environment.reset_peak_memory(device)
        drawn = sample(
            model,
            cell.subject.sde,
            cell.sampler,
            shape,
            cell.samples,
            seed=cell.seed,
            batch_size=cell.batch_size,
            device=device,
            dtype=dtype,
            observe=observe if progress or listeners else None,
        )
        found: Row = {
            "nfe": drawn.nfe,
            "seconds": drawn.seconds,
            "samples_per_second": cell.samples / drawn.seconds,
            "compile_seconds": 0.0,
            "peak_memory_bytes": environment.peak_memory(device),
        }
        picture = sample_grid(cell.subject.to_symmetric(drawn.x), self.folder / "pictures" / f"{cell.key}.png")
        found["picture"] = str(picture.relative_to(self.folder)) if picture else None
        bad = int((~drawn.x.flatten(1).isfinite().all(1)).sum())
        if bad:
            reason = f"the sampler diverged: {bad} of {cell.samples} samples are not finite; try more steps"
            return {**found, "status": "failed", "reason": reason}
        return {**found, **self._judge(cell, cell.subject.to_symmetric(drawn.x), model)}

    def _load(self, cell: Cell, device: torch.device, dtype: torch.dtype) -> ScoreModel:
        """The subject's score model; the last one is kept, since cells come subject by subject."""
        key = (cell.subject, device, dtype)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two networks need not fit in memory together
            self._loaded = key, cell.subject.load(device, dtype)
        return self._loaded[1]

    def _reference(self, cell: Cell, x: Tensor) -> Reference | None:
        """The truth, shared by the cells that are judged by the same; None for a subject without one."""
        if cell.subject.target is None:
            return None
        key = (cell.names["target"], cell.seed, cell.dtype, cell.device)
        if key not in self._references:
            target = cell.subject.target.to(x.device, x.dtype)
            self._references[key] = Reference(target, cell.samples, cell.seed, x.device)
        return self._references[key]

    def _judge(self, cell: Cell, x: Tensor, model: ScoreModel) -> Row:
        evidence = Evidence(x, cell.seed, sde=cell.subject.sde, model=model, reference=self._reference(cell, x))
        metrics: dict[str, Any] = {}
        skipped: dict[str, str] = {}
        for name, evaluator in self.evaluators.items():
            reason = evaluator.skip(evidence)
            if reason:
                skipped[name] = reason
                continue
            for metric in evaluator.evaluate(evidence):
                metrics[metric.name] = attrs.asdict(metric, filter=_worth_a_field)
        return {"metrics": metrics, "metrics_skipped": skipped}


def _worth_a_field(field: Any, value: Any) -> bool:
    """The name is the key already, and most metrics have no details."""
    return field.name != "name" and (field.name != "details" or bool(value))


def _reason(error: Exception) -> str:
    if isinstance(error, ScoreSDEError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: lower --batch-size or --samples ({one_line(error)})"
    return one_line(error)
