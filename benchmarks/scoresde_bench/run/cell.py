"""Runs one cell: sample, time, count evaluations, evaluate. The outcome is always a row."""

import os
import shutil
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import FileError, Registry, Samples, ScoreModel, ScoreSDEError, sample
from scoresde_core.plugins import one_line
from scoresde_core.sampler import now
from scoresde_run import Evidence, Observed, Reference, Row, Units
from scoresde_run.machine import environment
from scoresde_run.machine.progress import step_observer
from scoresde_run.results import picture
from scoresde_run.results.rows import SCHEMA
from scoresde_run.sampling.samples import diverged, root_mean_square, smallest_batch, valueless
from ..plan.cells import Cell
from .deadline import OutOfTime, deadline
from .executor import OnStep
from .restored import sides

KEPT = 16
"""Sets of exact samples, with what metrics cache for them, that are kept in memory: one per seed and target."""


@attrs.define
class Bench:
    """Runs cells. Holds what the cells of one process share: the registry, the last model, and exact samples."""

    registry: Registry
    folder: Path
    command: str
    tf32: bool = False
    timeout: float | None = None  # seconds after which a cell is stopped; None: no limit
    _references: dict[Any, Reference] = attrs.field(factory=dict, init=False)
    _loaded: tuple[Any, ScoreModel] | None = attrs.field(default=None, init=False)
    _given: tuple[Any, Observed] | None = attrs.field(default=None, init=False)
    _compiled: dict[int, float] = attrs.field(factory=dict, init=False)
    """Seconds of the first call of the compiled model, by batch size."""

    def run(self, cell: Cell, progress: OnStep | None = None) -> Row:
        """Return the row of ``cell``, with status done, skip or failed."""
        row = self.blank(cell)
        reason = cell.skip or (no_compiler(torch.device(cell.device)) if cell.compile != "none" else None)
        if reason:
            row |= {"status": "skip", "reason": reason}
        else:
            started = time.perf_counter()
            try:
                with deadline(self.timeout):
                    row |= self._measure(cell, torch.device(cell.device), progress)
            except Exception as error:
                row |= {"status": "failed", "reason": reason_of(error), "traceback": traceback.format_exc()}
            row["cell_seconds"] = time.perf_counter() - started
        self.registry.hook.scoresde_on_result(row=row)
        return row

    def blank(self, cell: Cell) -> Row:
        """Return the row of ``cell`` without measurements."""
        return {
            **{"schema": SCHEMA, "cell": cell.key, "status": "done", "reason": None},
            **{"checkpoint": None, "network": None, **cell.names},
            **{key: getattr(cell, key) for key in ("steps", "parameters", "seed", "samples", "batch_size", "timing")},
            **({"observations": given.count, "observations_seed": given.seed} if (given := cell.problem) else {}),
            "device": environment.describe_device(torch.device(cell.device)),
            "dtype": cell.dtype,
            "precision": None if cell.precision == "float32" else cell.precision,
            "compile": None if cell.compile == "none" else cell.compile,
            "tf32": self.tf32,
            **{"plugins" if key == "versions" else key: found for key, found in cell.depends.items()},
            **environment.facts(),
            "command": self.command,
            "evaluators": list(cell.evaluators),
        }

    def _measure(self, cell: Cell, device: torch.device, progress: OnStep | None) -> Row:
        model, observed = self.load(cell), self._observe(cell)
        if cell.compile == "none":
            self._first_call(cell, model, device, 1)
        environment.reset_peak_memory(device)
        drawn, size, products = self._draw(cell, model, device, observed, progress)
        found: Row = {
            **{"batch_size": size, "nfe": drawn.nfe, "calls": drawn.calls, **products, "seconds": drawn.seconds},
            "samples_per_second": cell.samples / drawn.seconds,
            "compile_seconds": sum(self._compiled.get(part, 0.0) for part in _parts(cell.samples, size)),
            "peak_memory_bytes": environment.peak_memory(device),
            "picture": f"pictures/{cell.key}.png",
        }
        warnings, units = _warnings(cell, size), cell.source.units
        x = units.decode(drawn.x)
        reference = self._reference(cell, x)
        about: dict[str, Any] = {"units": units, "dtype": getattr(torch, cell.dtype), "observed": observed}
        evidence = Evidence(x, cell.seed, model=model, sampler=cell.sampler, reference=reference, **about)
        try:
            columns, least = (1, 504) if observed else (8, 56)
            shown: dict[str, Any] = {"columns": columns, "count": 32, "least": least, "clear": True}
            picture.draw(self.folder / found["picture"], Units(levels=units.levels), *sides(evidence), **shown)
        except FileError as error:  # no reason to lose what was measured
            found["picture"], warnings["picture"] = None, f"no picture of the samples: {error}"
        found |= {"warnings": warnings} if warnings else {}
        scale = None if reference is None else reference.once("scale", lambda: root_mean_square(reference.exact(0)))
        if lost := diverged(x, scale):
            return {**found, "status": "failed", "reason": lost}
        return {**found, **self._judge(cell, evidence)}

    def _draw(
        self, cell: Cell, model: ScoreModel, device: torch.device, observed: Observed | None, on: OnStep | None
    ) -> tuple[Samples, int, Row]:
        """Return the samples, the batch size, which is halved until they fit into memory, and Jacobian products."""
        how: dict[str, Any] = {"seed": cell.seed, "device": device, "dtype": getattr(torch, cell.dtype)}
        observe, size = step_observer(self.registry, on), cell.batch_size
        while True:
            try:
                for part in _parts(cell.samples, size) if cell.compile != "none" else ():
                    if part not in self._compiled:  # by an earlier cell
                        self._compiled[part] = self._first_call(cell, model, device, part)
                if cell.problem is None or observed is None:
                    return sample(model, cell.sampler, cell.samples, batch_size=size, observe=observe, **how), size, {}
                given = cell.problem.given(observed, cell.samples)
                sampler = cell.problem.conditioned(cell.sampler, given)
                drawn = sample(model, sampler, cell.samples, batch_size=size, observe=observe, **how)
                return drawn, size, {"products": getattr(given, "products", [0])[0] / cell.samples}
            except Exception as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            size //= 2  # outside the handler, whose traceback keeps tensors alive
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _first_call(self, cell: Cell, model: ScoreModel, device: torch.device, size: int) -> float:
        """Evaluate the model once, uncounted, to pay for lazy initialisation and compilation; returns the seconds."""
        started = now(device)
        known = model.informed(size, cell.seed, 0).framed()
        x = torch.zeros(size, *known.shape, device=device, dtype=getattr(torch, cell.dtype))
        known.evaluate(x, known.sde.level_at(known.sde.t_signal, x))
        return now(device) - started

    def load(self, cell: Cell) -> ScoreModel:
        """Return the score model of ``cell``. The last one is kept: cells with one model run in sequence."""
        device, dtype = torch.device(cell.device), getattr(torch, cell.dtype)
        key = (cell.source, device, dtype, cell.compile, cell.precision)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two networks may not fit in memory together
            self._compiled.clear()
            self._loaded = key, cell.source.load(device, dtype, cell.compile, cell.precision)
        return self._loaded[1]

    def _observe(self, cell: Cell) -> Observed | None:
        """What the samples are given; the last one is kept, with the exact posterior: methods run in sequence."""
        if cell.problem is None:
            return None
        key = (cell.source, str(cell.problem.condition), cell.problem.count, cell.samples, cell.seed, cell.device)
        if self._given is None or self._given[0] != key:
            self._given = key, cell.problem.observe(cell.source)
        return self._given[1]

    def _reference(self, cell: Cell, x: Tensor) -> Reference | None:
        """The exact samples for the cell, shared with cells of the same target and seed; None without a target."""
        if cell.source.truth is None:
            return None
        key = (cell.names["target"], cell.names.get("known"), cell.samples, cell.seed, cell.dtype, cell.device)
        if key not in self._references:
            while len(self._references) >= KEPT:
                self._references.pop(next(iter(self._references)))
            target = cell.source.truth.to(x.device, getattr(torch, cell.dtype))
            self._references[key] = Reference(target, cell.samples, cell.seed, x.device)
        return self._references[key]

    def _judge(self, cell: Cell, evidence: Evidence) -> Row:
        started = time.perf_counter()
        metrics, skipped = dict[str, Any](), dict[str, str]()
        for name, evaluator in cell.judges.items():
            if reason := evaluator.skip(evidence):
                skipped[name] = reason
                continue
            try:
                metrics |= {metric.name: metric.plain() for metric in evaluator.evaluate(evidence)}
            except Exception as error:
                error.add_note(f"in the evaluator {name}")
                raise
        row = {"metrics": metrics, "metrics_skipped": skipped, "evaluation_seconds": time.perf_counter() - started}
        reason = valueless(metrics)
        return {**row, "status": "failed", "reason": reason} if reason else row


def _parts(samples: int, size: int) -> set[int]:
    """The sizes that batches have when ``samples`` are drawn in batches of ``size``."""
    return {part for part in (min(size, samples), samples % size) if part}


def _warnings(cell: Cell, size: int) -> dict[str, str]:
    """Warnings about samples drawn in batches of ``size``, by kind."""
    found = {}
    if size < cell.batch_size and cell.sampler.decoupled() != cell.sampler:
        memory = f"out of memory with batches of {cell.batch_size}, used {size}"
        found["memory"] = f"{memory}; the sampler couples its batch, so the results are those of --batch-size {size}"
    caveat = cell.sampler.caveat(cell.source.shape, smallest_batch(cell.samples, size))
    return found if caveat is None else {**found, "batch": caveat}


def reason_of(error: Exception) -> str:
    if isinstance(error, ScoreSDEError | OutOfTime):
        return str(error)
    if _out_of_memory(error):
        return f"out of memory: lower --batch-size or --samples ({one_line(error)})"
    return ", ".join([one_line(error), *getattr(error, "__notes__", ())])


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: on a GPU, or on the host, where torch only says so in the message."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def no_compiler(device: torch.device) -> str | None:
    """Return why torch.compile, whose backend needs a compiler, cannot work for ``device`` here, or None."""
    if device.type == "cpu":
        program = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(program.split()[0]) is None:
            return f"torch.compile needs a C++ compiler and {program} was not found: install one, or set CXX"
    elif find_spec("triton") is None:
        return "torch.compile needs the package triton for this device: install it"
    return None
