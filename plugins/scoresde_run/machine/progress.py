"""Progress: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from .visible import Visible

if TYPE_CHECKING:
    from rich.console import Console
    from scoresde_core import Observer, Registry

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """The progress of one task after another, on stderr or ``console``; silent unless ``shown``. A context manager."""

    def __init__(self, shown: bool = True, console: Console | None = None) -> None:
        from rich import progress
        from .terminal import Terminal

        console = console or Terminal(stderr=True)
        self.shown, self.live = shown, shown and console.is_terminal
        times = progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
        columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(), *times
        self._bar = progress.Progress(*columns, console=console, disable=not self.live, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._text, self._last = "", time.monotonic()
        self._begun = 0, self._last  # the first batch of the task, and when it began

    def __enter__(self) -> Self:
        self._bar.start()
        if self.live:  # rich has replaced the streams, and would obey the codes in what is printed beside the bar
            sys.stdout, sys.stderr = Visible(sys.stdout), Visible(sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar, before results are printed."""
        self._bar.stop()

    def show(self, text: str, done: int, total: int | None, line: str | None = None, due: bool | None = None) -> None:
        """Set the bar's text and numbers. In a pipe print ``line`` where ``due``; None: every ten seconds."""
        self._text = text
        self._bar.update(self._task, description=text, completed=done, total=total)
        if line is None or self.live:
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES if due is None else due:
            self._last = now
            self.say(line)

    def batch(self, text: str, k: int, count: int) -> None:
        """Show that batch ``k`` of ``count`` begins, and how long the rest will take."""
        now = time.monotonic()
        if text != self._text or k <= self._begun[0]:
            self._begun = k, now
        first, begun = self._begun
        left = f", about {in_words((now - begun) / (k - first) * (count - k))} left" if k > first else ""
        self.show(text, k, count, f"{text}, batch {k + 1} of {count}{left}")

    def step(self, done: int, total: int) -> None:
        """Add a sampler's step to the bar's text; ``total`` is 0 where it is not known."""
        of = f" of {total}" if total else ""
        self._bar.update(self._task, description=f"{self._text}, step {done}{of}")

    def say(self, text: str) -> None:
        """Print a line."""
        if self.shown:
            print(text, file=sys.stderr, flush=True)


def is_tenth(before: int, done: int, total: int) -> bool:
    """Whether a tenth of ``total`` was completed between ``before`` and ``done``."""
    return done * 10 // total > before * 10 // total


def in_words(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def step_observer(registry: Registry, show: Callable[[int, int], None] | None) -> Observer | None:
    """Return an observer that calls ``show(done, total)`` and the plugins' hook; None where there is neither."""
    hook = registry.hook.scoresde_on_sampling_step
    listeners = hook.get_hookimpls()
    if show is None and not listeners:
        return None

    def observe(done: int, total: int, x: Any) -> None:
        if show is not None:
            show(done, total)
        if listeners:
            hook(done=done, total=total, x=x)

    return observe
