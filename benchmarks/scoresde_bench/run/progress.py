"""Progress of a run: a live bar on a terminal, one plain line per cell in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Meter:
    """Counts the cells of a run; a context manager."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done = console, total, 0
        self.bar: Progress | None = None
        if console.is_terminal and total:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self.cells = self.bar.add_task("cells", total=total)
            self.steps = self.bar.add_task("", total=None)

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if kind is not None and self.done < self.total:
            self.console.print(f"stopped with {self.done} of {self.total} cells done; repeat the command to continue")

    def start(self, title: str) -> Callable[[int, int], Any] | None:
        """Show the start of a cell; returns a function to call after each step."""
        if self.bar is None:
            return None
        bar = self.bar
        bar.reset(self.steps, description=title, total=None)
        return lambda done, total: bar.update(self.steps, completed=done, total=total or None)

    def finish(self, row: dict[str, Any], title: str) -> None:
        """Count a cell and show its outcome."""
        self.done += 1
        if self.bar:
            self.bar.advance(self.cells)
        outcome = f"{row['seconds']:.1f} s" if row["status"] == "done" else f"{row['status']}: {row['reason']}"
        if self.bar is None or row["status"] != "done":
            self.console.print(f"[{self.done}/{self.total}] {title}: {outcome}", markup=False, highlight=False)
