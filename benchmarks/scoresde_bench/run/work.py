"""The work of a command: previews its cells, or runs them within the time budget, writes rows, and shows them.

Cells that measure speed run last, each with its device to itself.
"""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
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
from ..report.combinations import EARLIER, identity, is_current, pool, tell_apart
from ..report.labels import ResultRow, count
from ..report.page import write_report
from ..report.published import PublishedValue, attach
from ..report.ranking import rank
from ..report.table import print_table
from ..report.verdicts import verdicts
from .costs import Costs
from .executor import Executor, OnStep, Settings, Task
from .worker import prepare

FEW = 2000
"""Evaluations of a network for one sample that take far less than an hour; of an exact score, a thousand times."""


class Meter(Progress):
    """Counts the cells of a run: a live bar on a terminal, one plain line per cell in a pipe."""

    def __init__(self, console: Terminal, total: int) -> None:
        super().__init__(total > 0, console)
        self.console, self.total, self.done = console, total, 0

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if error[0] is not None and self.done < self.total:
            self.console.print(f"stopped with {self.done} of {self.total} cells done; repeat the command to continue")

    def start(self, task: Task) -> OnStep | None:
        """Show the start of a task; returns a function to call after each step."""
        if not self.live:
            return None
        room = max(24, self.console.width - 86)  # beside the bar
        shown = task.title[-room:]  # cells differ in their last axes
        self.show(shown, self.done, self.total)
        return lambda k, n: self.show(f"{shown}, step {k}{f' of {n}' if n else ''}", self.done, self.total)

    def finish(self, row: dict[str, Any], title: str) -> None:
        """Count a cell and show its outcome."""
        self.done += 1
        self.show("", self.done, self.total)
        outcome = f"{row['seconds']:.1f} s" if row["status"] == "done" else f"{row['status']}: {row['reason']}"
        if not self.live or row["status"] != "done":
            self.console.print(f"[{self.done}/{self.total}] {title}: {outcome}", markup=False, highlight=False)


@attrs.define
class Work:
    """The cells of a command, and how and where they are run."""

    registry: Registry
    cells: Sequence[Cell]
    executor: Executor
    settings: Settings
    folder: Path  # the folder of results as typed
    published: Sequence[PublishedValue] = ()  # published values; each is stored in the rows that it is for
    budget: float | None = None
    """Seconds within which every started cell must end by its predicted cost; None: no limit."""
    debug: bool = False

    def preview(self) -> int:
        """Print the cells with their predicted cost."""
        done = Results.peek(self.folder)
        costs = self._costs(done)
        found = list[float | None]()
        for cell in self.cells:
            if cell.skip:
                note = f"skipped: {cell.skip}"
            elif cell.key in done and done[cell.key]["status"] != "failed":
                note = "already done"
            else:
                seconds, nfe = costs.seconds(cell), costs.nfe(cell)
                found.append(seconds)
                cost = "cost unknown" if seconds is None else f"about {in_words(seconds)}"
                note = cost if nfe is None else f"NFE {nfe:g}, {cost}"
            print(f"{cell.key}  {cell.title}  ({note})")
        print(f"{count(len(self.cells), 'cell')}, about {_total(found, ' left')}")
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
            for precision in dict.fromkeys(cell.precision for cell in todo if self.executor.here and not cell.skip):
                if slow := slow_precision(torch.device(self.settings.device), precision):
                    print(f"warning: {slow}", file=sys.stderr)
            self._announce(todo, costs)
            with Meter(console, len(todo)) as meter:
                left = self._perform(todo, results, costs, meter)
            missing = {cell.key for cell in left}
            rows = [results.rows[cell.key] for cell in cells if cell.key not in missing]
            self._show(self._beside(rows, results, console), console)
        if left:
            undone = f"{len(left)} of {len(cells)} cells were not run"
            console.print(f"time budget exhausted: {undone}; repeat the command to continue", highlight=False)
        return 1 if any(row["status"] == "failed" for row in rows) else 0

    def _beside(self, rows: Sequence[Row], results: Results, console: Terminal) -> list[ResultRow]:
        """``rows`` behind those of the same cells that were measured with earlier source; says how many these are."""
        asked, keys = {(identity(row), row.get("seed")) for row in rows}, {cell.key for cell in self.cells}
        same = [row for row in results.rows.values() if (identity(row), row.get("seed")) in asked]
        shown = tell_apart([*(row for row in same if row["cell"] not in keys), *rows], keys)
        if old := [row["measured"].removeprefix(EARLIER) for row in shown if not is_current(row)]:
            many = "1 row of these cells was" if len(old) == 1 else f"{len(old)} rows of these cells were"
            what = ", ".join(dict.fromkeys(", ".join(old).split(", ")))
            said = f"{many} measured with an earlier version of {what}; shown beside the new ones, not reused"
            console.print(f"in {self.folder}: {said}", markup=False, highlight=False)
        return [row for row in shown if row["cell"] in keys or not is_current(row)]

    def _announce(self, cells: Sequence[Cell], costs: Costs) -> None:
        """Say what the cells will cost, if that is above an hour; what is far below it is not estimated."""
        evaluations = sum((cell.steps or 100) * cell.samples for cell in cells if not cell.skip)
        if evaluations < (FEW if any(cell.source.has_network for cell in cells) else 1000 * FEW):
            return
        found = [costs.seconds(cell) for cell in cells]
        if sum(filter(None, found)) > 3600:
            work = f"{count(len(cells), 'cell')}, about {_total(found, ' of work')}"
            print(f"{work} (--dry-run lists them)", file=sys.stderr)

    def _perform(self, cells: Sequence[Cell], results: Results, costs: Costs, meter: Meter) -> list[Cell]:
        """Run ``cells``, write their rows, and return the cells that the time budget left out."""
        end = time.monotonic() + (self.budget or 0.0)
        known = {cell.key: cell for cell in cells}
        left, warned = list[Cell](), set[str]()

        def tasks(chosen: Sequence[Cell]) -> Iterator[Task]:
            for cell in chosen:
                if self.budget is not None and time.monotonic() + (costs.seconds(cell) or 0.0) > end:
                    left.append(cell)
                else:
                    yield Task.of(cell, self.settings)

        for alone in (False, True):
            chosen = [cell for cell in cells if cell.timing == alone]
            for row in self.executor.run(tasks(chosen), alone=alone, started=meter.start) if chosen else ():
                results.append(attach(row, self.published))
                cell = known[row["cell"]]
                if self.budget is not None:
                    costs.learn([cell], results.rows)
                meter.finish(row, cell.title)
                for warning in (row.get("warnings") or {}).values():
                    if warning not in warned:
                        print(f"warning: {cell.title}: {warning}", file=sys.stderr)
                    warned.add(warning)
                if row["status"] == "failed" and self.debug:
                    print(row.get("traceback", ""), file=sys.stderr)
        return left

    def _show(self, rows: Sequence[ResultRow], console: Terminal) -> None:
        pooled = pool(rows)
        print_table(pooled, console)
        for warning in warnings_of(rows):
            console.print(f"warning: {warning}", markup=False, highlight=False, style="yellow")
        ranking = rank(pooled)
        for sentence in (*ranking.sentences, *(one.text for one in verdicts(ranking) if one.faults)):
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


def _total(found: Sequence[float | None], word: str) -> str:
    unknown = found.count(None)
    return f"{in_words(sum(filter(None, found)))}{word}" + (f", plus {unknown} of unknown cost" if unknown else "")
