"""Progress of a command that works through its events: a bar on a terminal, in a pipe a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Yields ``show(done, text)``, to be called whenever some of ``total`` are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    last = -_SECONDS_BETWEEN_LINES
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)

        def show(done: int, text: str = "") -> None:
            nonlocal last
            bar.update(task, completed=done, description=f"{what} {text}".rstrip())
            now = time.monotonic()
            if not console.is_terminal and (done == total or now - last >= _SECONDS_BETWEEN_LINES):
                last = now
                print(f"{what}: {done} of {total}{': ' * bool(text)}{text}", file=sys.stderr)

        yield show
