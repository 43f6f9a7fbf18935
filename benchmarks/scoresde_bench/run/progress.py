"""Progress of a run: a live bar on a terminal, one plain line per cell in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from scoresde_run.machine.progress import Progress


class Meter(Progress):
    """Counts the cells of a run; a context manager."""

    def __init__(self, console: Console, total: int) -> None:
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
