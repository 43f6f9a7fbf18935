"""What a cell will cost, before it runs: function evaluations x seconds per evaluation, and what judging takes.

The evaluations of a sampler with a step count come from two short runs on a score that costs nothing, since they grow
linearly with the steps; those of an adaptive sampler from a run of two samples. Seconds per evaluation are the median
over the cells that were done, else what the model takes for batches that grow towards the cell's: a small batch costs
what a call costs, which says nothing of a sample of a large one. A busy machine only ever adds time, so the shortest of
several evaluations counts.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from scoresde_core.sampler import Sampler, sample
from scoresde_core.score import ScoreModel
from scoresde_core.sde import SDE, Level
from scoresde_run.results.results import Row

from ..plan.cells import Cell
from .cell import Bench

TRIAL_STEPS = (16, 24)
"""Beyond the start and the end of every multistep method, so that the growth between them is that of one more step."""
GROWTH = 4
"""From one batch that is timed to the next."""
REPEATS = 4
CONTENDED = 3.0
"""Times as long with all threads as with one: others keep the cores busy, and threads wait for each other."""
PATIENCE = 0.5
"""Seconds that a single timed evaluation may be expected to take, beyond that of one sample."""


class _FreeScore(ScoreModel):
    """-x."""

    def evaluate(self, x: Tensor, level: Level) -> Tensor:
        return -x


@attrs.define
class Costs:
    """Predicts seconds from what was measured before."""

    bench: Bench
    here: bool = True
    """Whether cells run on this machine, so that it can measure for them."""
    _done: dict[Any, list[float]] = attrs.field(factory=dict, init=False)
    """Seconds per evaluation of one sample, from each done cell."""
    _rates: dict[Any, float | None] = attrs.field(factory=dict, init=False)
    """The same, from calibration."""
    _judging: dict[Any, list[float]] = attrs.field(factory=dict, init=False)
    _nfe: dict[Any, float | None] = attrs.field(factory=dict, init=False)

    def learn(self, cells: Iterable[Cell], rows: dict[str, Row]) -> None:
        """Take over what the done ones of ``cells`` took."""
        for cell in cells:
            row = rows.get(cell.key)
            if row is None or row["status"] != "done" or not row.get("nfe"):
                continue
            self._done.setdefault(_rate_key(cell), []).append(row["seconds"] / row["nfe"] / cell.samples)
            if "cell_seconds" in row:
                beside = row["cell_seconds"] - row["seconds"] - row["compile_seconds"]
                self._judging.setdefault(_judging_key(cell), []).append(max(0.0, beside))
            if "steps" not in cell.sampler.uses:
                self._nfe[self._nfe_key(cell)] = row["nfe"]

    def seconds(self, cell: Cell) -> float | None:
        """Seconds that ``cell`` will take; None where nothing is known of it."""
        if cell.skip:
            return 0.0
        rate, nfe = self._rate(cell), self.nfe(cell)
        if rate is None or nfe is None:
            return None
        return rate * nfe * cell.samples + statistics.median(self._judging.get(_judging_key(cell), [0.0]))

    def nfe(self, cell: Cell) -> float | None:
        """Function evaluations a sample; None where a trial fails, or would have to run elsewhere."""
        key = self._nfe_key(cell)
        if key not in self._nfe:
            try:
                self._nfe[key] = self._count(cell)
            except Exception:  # the cell itself will say why
                self._nfe[key] = None
        return self._nfe[key]

    def _count(self, cell: Cell) -> float | None:
        sampler, sde = cell.sampler, cell.source.sde
        if cell.steps is not None and cell.steps <= TRIAL_STEPS[0]:
            return _trial(sampler, sde, cell.source.shape)
        if cell.steps is not None:
            few, more = (_trial(attrs.evolve(sampler, steps=n), sde, cell.source.shape) for n in TRIAL_STEPS)  # type: ignore[misc]
            return more + (more - few) / (TRIAL_STEPS[1] - TRIAL_STEPS[0]) * (cell.steps - TRIAL_STEPS[1])
        if not self.here:
            return None
        device, dtype = torch.device(cell.device), getattr(torch, cell.dtype)
        model = self.bench.load(cell)
        return sample(model, sde, sampler, cell.source.shape, 2, device=device, dtype=dtype).nfe

    def _rate(self, cell: Cell) -> float | None:
        """Seconds per evaluation of one sample."""
        key = _rate_key(cell)
        if key in self._done:
            return statistics.median(self._done[key])
        if key not in self._rates:
            try:
                self._rates[key] = self._calibrate(cell) if self.here else None
            except Exception:  # the cell itself will say why
                self._rates[key] = None
        return self._rates[key]

    @torch.no_grad()
    def _calibrate(self, cell: Cell) -> float:
        """A sample's share of an evaluation of the largest batch that there is the patience for.

        A network that is to be compiled is timed as it is: compiling takes longer than the answer is worth.
        """
        device, dtype = torch.device(cell.device), getattr(torch, cell.dtype)
        model, level = self.bench.load(attrs.evolve(cell, compile="none")), cell.source.sde.level(torch.ones(()))

        def evaluate(size: int) -> float:
            x = torch.ones(size, *cell.source.shape, device=device, dtype=dtype)
            started = time.perf_counter()
            model.evaluate(x, level)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - started

        teams = {1, torch.get_num_threads()} if device.type == "cpu" else {torch.get_num_threads()}
        size, largest = 1, cell.batch_size
        evaluate(size)  # pays for lazy initialisation
        while True:
            seconds = math.inf
            for team in sorted(teams):
                with _threads(team):
                    first = evaluate(size)
                    if first > CONTENDED * seconds:
                        teams.remove(team)
                    else:
                        seconds = min(seconds, first, *(evaluate(size) for _ in range(REPEATS - 1)))
            following = min(GROWTH * size, largest)
            if size == largest or seconds * following / size > PATIENCE:
                return seconds / size
            size = following

    def _nfe_key(self, cell: Cell) -> Any:
        """An adaptive sampler's evaluations depend on the score, those of the others on the steps alone."""
        adaptive = None if "steps" in cell.sampler.uses else _rate_key(cell)
        return json.dumps(cell.parameters["sampler"], sort_keys=True), adaptive


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """With so many threads for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trial(sampler: Sampler, sde: SDE, shape: tuple[int, ...]) -> float:
    """The evaluations of one sample of the smallest event with as many axes."""
    small = (shape[0], *(min(side, 2) for side in shape[1:])) if shape else shape
    return sample(_FreeScore(), sde, sampler, small, 1).nfe


def _rate_key(cell: Cell) -> Any:
    names = tuple(cell.names.get(name) for name in ("target", "checkpoint", "network", "sde"))
    return names, cell.dtype, cell.device, cell.compile, cell.precision


def _judging_key(cell: Cell) -> Any:
    return cell.names.get("target"), cell.samples, cell.evaluators, cell.dtype, cell.device


def in_words(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
