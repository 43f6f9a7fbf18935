"""Runs the cells of a command: hands tasks to the executor within the time budget, and writes rows to disk.

Cells that measure speed run last, each with its device to itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import attrs

from scoresde_run.results.results import Results

from ..plan.cells import Cell
from ..report.published import PublishedValue, attach
from .costs import Costs
from .executor import Executor, OnStep, Settings, Task
from .progress import Meter


@attrs.define
class Work:
    """Runs the unfinished cells of one command."""

    results: Results
    executor: Executor
    settings: Settings
    costs: Costs
    published: Sequence[PublishedValue] = ()
    """Published values; each is stored in the rows that it is for."""
    budget: float | None = None
    """Seconds within which every started cell must end by its predicted cost; None: no limit."""
    debug: bool = False
    _end: float = attrs.field(default=0.0, init=False)
    _warned: set[str] = attrs.field(factory=set, init=False)
    """Warnings already printed."""

    def run(self, cells: Sequence[Cell], meter: Meter) -> list[Cell]:
        """Run ``cells`` and return those that the time budget left out."""
        self._end = time.monotonic() + (self.budget or 0.0)
        known = {cell.key: cell for cell in cells}
        left: list[Cell] = []

        def started(task: Task) -> OnStep | None:
            return meter.start(task.title)

        for alone in (False, True):
            chosen = [cell for cell in cells if cell.timing == alone]
            if not chosen:
                continue
            for row in self.executor.run(self._tasks(chosen, left), alone=alone, started=started):
                self.results.append(attach(row, self.published))
                cell = known[row["cell"]]
                if self.budget is not None:
                    self.costs.learn([cell], self.results.rows)
                meter.finish(row, cell.title)
                for warning in (row.get("warnings") or {}).values():
                    if warning not in self._warned:
                        self._warned.add(warning)
                        print(f"warning: {cell.title}: {warning}", file=sys.stderr)
                if row["status"] == "failed" and self.debug:
                    print(row.get("traceback", ""), file=sys.stderr)
        return left

    def _tasks(self, cells: Sequence[Cell], left: list[Cell]) -> Iterator[Task]:
        """Yield the tasks in order; a cell that does not fit the time budget goes to ``left``."""
        for cell in cells:
            if self.budget is not None and time.monotonic() + (self.costs.seconds(cell) or 0.0) > self._end:
                left.append(cell)
            else:
                yield Task.of(cell, self.settings)
