"""Predicts the cost of a cell: function evaluations x seconds per evaluation, plus the time to evaluate metrics.

The evaluations of a sampler with a step count grow linearly with the steps and come from two short runs on a free
score; those of an adaptive sampler come from a run of two samples. Seconds per evaluation are the median over finished
cells, or else measured with batches that grow towards the cell's size, because the time of a small batch is that of
the call and does not scale. The shortest of several evaluations counts, because a busy machine only adds time.
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Level, Sampler, ScoreModel, sample
from scoresde_core.sampler import now
from scoresde_run import Row
from ..plan.cells import Cell
from ..report.labels import as_float
from .cell import Bench

TRIAL_STEPS = (16, 24)
"""Step counts of the short runs: large enough that start and end of every multistep method are the same in both."""
GROWTH = 4  # factor from one timed batch size to the next
REPEATS = 4
CONTENDED = 3.0  # if all threads take this many times as long as one, the cores are busy and one thread is timed
TIMES = ("cell_seconds", "seconds", "compile_seconds", "nfe")
PATIENCE = 0.5  # upper limit on the expected seconds of a timed evaluation with more than one sample


class FreeScore(ScoreModel):
    """A score that costs nothing: -x."""

    def __init__(self, sde: SDE, shape: tuple[int, ...]) -> None:
        self.sde, self.shape = sde, shape

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        return -x


@attrs.define
class Costs:
    """Predicts seconds from finished cells and short measurements."""

    bench: Bench
    here: bool = True  # whether cells run on this machine, so that measurements here apply to them
    _done: defaultdict[Any, list[float]] = attrs.field(factory=lambda: defaultdict(list), init=False)
    """Of every finished cell, seconds per evaluation and sample, and seconds to evaluate its metrics."""
    _tried: dict[Any, float | None] = attrs.field(factory=dict, init=False)
    """Evaluations, and seconds per evaluation and sample, that were measured here; None if that failed."""

    def learn(self, cells: Iterable[Cell], rows: dict[str, Row]) -> None:
        """Record the times of the finished cells among ``cells``."""
        for cell in cells:
            row = rows.get(cell.key) or {}
            whole, seconds, compiling, nfe = (as_float(row.get(key)) for key in TIMES)
            if row.get("status") != "done" or not (seconds > 0 and nfe > 0):
                continue
            self._done[_rate_key(cell)].append(seconds / nfe / cell.samples)
            if math.isfinite(beside := whole - seconds - compiling):
                self._done[_judging_key(cell)].append(max(0.0, beside))
            if "steps" not in cell.sampler.uses:
                self._tried[_nfe_key(cell)] = nfe

    def seconds(self, cell: Cell) -> float | None:
        """Return the predicted seconds of ``cell``; None if unknown."""
        if cell.skip:
            return 0.0
        key, nfe = _rate_key(cell), self.nfe(cell)
        rate = statistics.median(self._done[key]) if key in self._done else self._try(key, cell, self._calibrate)
        if rate is None or nfe is None:
            return None
        return rate * nfe * cell.samples + statistics.median(self._done.get(_judging_key(cell), [0.0]))

    def nfe(self, cell: Cell) -> float | None:
        """Return the function evaluations per sample; None if a trial fails or would have to run elsewhere."""
        return self._try(_nfe_key(cell), cell, self._count)

    def _try(self, key: Any, cell: Cell, measure: Callable[[Cell], float | None]) -> float | None:
        if key not in self._tried:
            threads = torch.get_num_threads()
            try:
                self._tried[key] = measure(cell)
            except Exception:  # the cell itself will report why
                self._tried[key] = None
            finally:
                torch.set_num_threads(threads)
        return self._tried[key]

    def _count(self, cell: Cell) -> float | None:
        sampler, sde = cell.sampler, cell.source.sde
        if cell.steps is not None and cell.steps <= TRIAL_STEPS[0]:
            return _trial(sampler, sde, cell.source.shape)
        if cell.steps is not None:
            few, more = (_trial(attrs.evolve(sampler, steps=n), sde, cell.source.shape) for n in TRIAL_STEPS)  # type: ignore[misc]
            return more + (more - few) / (TRIAL_STEPS[1] - TRIAL_STEPS[0]) * (cell.steps - TRIAL_STEPS[1])
        if not self.here:
            return None
        return sample(self.bench.load(cell), sampler, 2, device=cell.device, dtype=getattr(torch, cell.dtype)).nfe

    @torch.no_grad()
    def _calibrate(self, cell: Cell) -> float | None:
        """Seconds per sample of an evaluation, with the largest batch that PATIENCE allows.

        The network is timed without compiling, which would take longer than the answer is worth.
        """
        if not self.here:
            return None
        device, dtype = torch.device(cell.device), getattr(torch, cell.dtype)
        model, level = self.bench.load(attrs.evolve(cell, compile="none")), cell.source.sde.level(torch.ones(()))

        def evaluate(size: int) -> float:
            x = torch.ones(size, *cell.source.shape, device=device, dtype=dtype)
            started = now(device)
            model.evaluate(x, level)
            return now(device) - started

        teams = {1, torch.get_num_threads()} if device.type == "cpu" else {torch.get_num_threads()}
        size, largest = 1, cell.batch_size
        evaluate(size)  # pays for lazy initialisation
        while True:
            seconds = math.inf
            for team in sorted(teams):
                torch.set_num_threads(team)
                first = evaluate(size)
                if first > CONTENDED * seconds:
                    teams.remove(team)
                else:
                    seconds = min(seconds, first, *(evaluate(size) for _ in range(REPEATS - 1)))
            following = min(GROWTH * size, largest)
            if size == largest or seconds * following / size > PATIENCE:
                return seconds / size
            size = following


def _trial(sampler: Sampler, sde: SDE, shape: tuple[int, ...]) -> float:
    """Evaluations for one sample of a small event with as many axes."""
    small = (shape[0], *(min(side, 2) for side in shape[1:])) if shape else shape
    return sample(FreeScore(sde, small), sampler, 1).nfe


def _rate_key(cell: Cell) -> Any:
    names = tuple(cell.names.get(name) for name in ("target", "checkpoint", "network", "sde"))
    return names, cell.dtype, cell.device, cell.compile, cell.precision


def _nfe_key(cell: Cell) -> Any:
    """The evaluations of an adaptive sampler depend on the score, those of others on the steps alone."""
    adaptive = None if "steps" in cell.sampler.uses else _rate_key(cell)
    return json.dumps(cell.parameters["sampler"], sort_keys=True), adaptive


def _judging_key(cell: Cell) -> Any:
    return cell.names.get("target"), cell.samples, cell.evaluators, cell.dtype, cell.device
