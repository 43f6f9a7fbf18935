"""The work of a command: previews its cells, or runs them within the time budget, writes rows, and shows them.

Cells that measure speed run last, each with its device to itself.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from scoresde_core import FileError, Registry
from scoresde_run.machine.device import slow_precision
from scoresde_run.machine.progress import Progress, in_words
from scoresde_run.machine.terminal import Terminal
from scoresde_run.results.results import Results, Row
from scoresde_run.results.rows import warnings_of
from ..plan.cells import Cell
from ..report.combinations import earlier, pool, summary, tell_apart
from ..report.labels import ResultRow, count
from ..report.page import write_report
from ..report.published import PublishedValue, attach
from ..report.ranking import rank
from ..report.table import print_table
from .costs import Costs
from .executor import Executor, OnStep, Settings, Task
from .worker import prepare

FEW = 2000
"""Evaluations of a network for one sample that take far less than an hour; of an exact score, a thousand times."""


@attrs.define
class Work:
    """The cells of a command, and how and where they are run."""

    registry: Registry
    cells: Sequence[Cell]
    executor: Executor
    settings: Settings
    folder: Path
    """The folder of results as typed."""
    published: Sequence[PublishedValue] = ()
    """Published values; each is stored in the rows that it is for."""
    budget: float | None = None
    """Seconds within which every started cell must end by its predicted cost; None: no limit."""
    debug: bool = False
    _warned: set[str] = attrs.field(factory=set, init=False)
    """Warnings already printed."""

    def preview(self) -> int:
        """Print the cells with their predicted cost."""
        done = Results.peek(self.folder)
        costs = self._costs(done)
        total, unknown = 0.0, 0
        for cell in self.cells:
            seconds, nfe = costs.seconds(cell), None if cell.skip else costs.nfe(cell)
            if cell.skip:
                note = f"skipped: {cell.skip}"
            elif cell.key in done and done[cell.key]["status"] != "failed":
                note = "already done"
            else:
                unknown += seconds is None
                total += seconds or 0.0
                cost = "cost unknown" if seconds is None else f"about {in_words(seconds)}"
                note = cost if nfe is None else f"NFE {nfe:g}, {cost}"
            print(f"{cell.key}  {cell.title}  ({note})")
        more = f", plus {unknown} of unknown cost" if unknown else ""
        print(f"{count(len(self.cells), 'cell')}, about {in_words(total)} left{more}")
        return 0

    def _costs(self, done: dict[str, Row]) -> Costs:
        costs = Costs(prepare(self.settings, self.registry)[0], self.executor.here)
        costs.learn(self.cells, done)
        return costs

    def run(self) -> int:
        """Run the cells that are not done, show all rows, and return the exit code."""
        console, cells, results = Terminal(soft_wrap=True), self.cells, Results(self.folder)
        with results.claim():
            todo = [cell for cell in cells if not results.finished(cell.key)]
            if len(todo) < len(cells):
                console.print(f"{len(cells) - len(todo)} of {len(cells)} cells are already done in {self.folder}")
            costs = self._costs(results.rows)
            others = set(results.rows) - {cell.key for cell in cells}
            known = earlier(results.rows, [costs.bench.blank(cell) for cell in cells if others])
            if known:
                console.print(f"in {self.folder}: {summary(known)}", markup=False, highlight=False)
            for precision in dict.fromkeys(cell.precision for cell in todo if self.executor.here and not cell.skip):
                if slow := slow_precision(torch.device(self.settings.device), precision):
                    print(f"warning: {slow}", file=sys.stderr)
            self._announce(todo, costs)
            with Meter(console, len(todo)) as meter:
                left = self._perform(todo, results, costs, meter)
            missing = {cell.key for cell in left}
            rows = [results.rows[cell.key] for cell in cells if cell.key not in missing]
            self._show(tell_apart([*(row for row, _ in known), *rows], {row["cell"] for row in rows}), console)
        if left:
            undone = f"{len(left)} of {len(cells)} cells were not run"
            console.print(f"time budget exhausted: {undone}; repeat the command to continue", highlight=False)
        return 1 if any(row["status"] == "failed" for row in rows) else 0

    def _announce(self, cells: Sequence[Cell], costs: Costs) -> None:
        """Say what the cells will cost, if that is above an hour; what is far below it is not estimated."""
        evaluations = sum((cell.steps or 100) * cell.samples for cell in cells if not cell.skip)
        if evaluations < (FEW if any(cell.source.has_network for cell in cells) else 1000 * FEW):
            return
        found = [costs.seconds(cell) for cell in cells]
        total, unknown = sum(filter(None, found)), found.count(None)
        if total > 3600:
            more = f", plus {unknown} of unknown cost" if unknown else ""
            work = f"{count(len(cells), 'cell')}, about {in_words(total)} of work{more}"
            print(f"{work} (--dry-run lists them)", file=sys.stderr)

    def _perform(self, cells: Sequence[Cell], results: Results, costs: Costs, meter: Meter) -> list[Cell]:
        """Run ``cells``, write their rows, and return the cells that the time budget left out."""
        end = time.monotonic() + (self.budget or 0.0)
        known = {cell.key: cell for cell in cells}
        left: list[Cell] = []

        def tasks(chosen: Sequence[Cell]) -> Iterator[Task]:
            for cell in chosen:
                if self.budget is not None and time.monotonic() + (costs.seconds(cell) or 0.0) > end:
                    left.append(cell)
                else:
                    yield Task.of(cell, self.settings)

        def started(task: Task) -> OnStep | None:
            return meter.start(task.title)

        for alone in (False, True):
            chosen = [cell for cell in cells if cell.timing == alone]
            for row in self.executor.run(tasks(chosen), alone=alone, started=started) if chosen else ():
                results.append(attach(row, self.published))
                cell = known[row["cell"]]
                if self.budget is not None:
                    costs.learn([cell], results.rows)
                meter.finish(row, cell.title)
                self._warn(cell, row)
        return left

    def _warn(self, cell: Cell, row: ResultRow) -> None:
        for warning in (row.get("warnings") or {}).values():
            if warning not in self._warned:
                self._warned.add(warning)
                print(f"warning: {cell.title}: {warning}", file=sys.stderr)
        if row["status"] == "failed" and self.debug:
            print(row.get("traceback", ""), file=sys.stderr)

    def _show(self, rows: Sequence[ResultRow], console: Terminal) -> None:
        """Print the table and the best cells, and write the report."""
        pooled = pool(rows)
        print_table(pooled, console)
        for warning in warnings_of(rows):
            console.print(f"warning: {warning}", markup=False, highlight=False, style="yellow")
        for sentence in rank(pooled).sentences:
            console.print(sentence, markup=False, highlight=False)
        meaning = {entry.row.name: entry.row.summary for entry in self.registry.entries("evaluators")}
        console.print(f"rows:    {self.folder / 'results.jsonl'}", highlight=False)
        try:
            page = write_report(rows, self.folder / "report.html", self.settings.command, meaning)
        except FileError as error:  # the rows are safe
            again = shlex.join(["scoresde-bench", "report", str(self.folder)])
            print(f"warning: no report: {error}; write it later: {again}", file=sys.stderr)
        else:
            console.print(f"report:  {page}", highlight=False)


class Meter(Progress):
    """Counts the cells of a run: a live bar on a terminal, one plain line per cell in a pipe."""

    def __init__(self, console: Terminal, total: int) -> None:
        super().__init__(total > 0, console)
        self.console, self.total, self.done = console, total, 0

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if error[0] is not None and self.done < self.total:
            self.console.print(f"stopped with {self.done} of {self.total} cells done; repeat the command to continue")

    def start(self, title: str) -> Callable[[int, int], Any] | None:
        """Show the start of a cell; returns a function to call after each step."""
        if not self.live:
            return None
        shown = title[-max(24, self.console.width - 86) :]  # its end, beside the bar: cells differ in their last axes
        self.show(shown, self.done, self.total)
        return lambda k, n: self.show(f"{shown}, step {k}{f' of {n}' if n else ''}", self.done, self.total)

    def finish(self, row: dict[str, Any], title: str) -> None:
        """Count a cell and show its outcome."""
        self.done += 1
        self.show("", self.done, self.total)
        outcome = f"{row['seconds']:.1f} s" if row["status"] == "done" else f"{row['status']}: {row['reason']}"
        if not self.live or row["status"] != "done":
            self.console.print(f"[{self.done}/{self.total}] {title}: {outcome}", markup=False, highlight=False)
