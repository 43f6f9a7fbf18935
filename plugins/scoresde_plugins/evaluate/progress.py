"""What a person sees of an evaluation: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from scoresde_core.registry import Registry
from scoresde_run.results.results import Row

if TYPE_CHECKING:
    from scoresde_core.sampler import Observer

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """The batches of one measure after another, on stderr; a context manager. Not ``shown``, it is silent."""

    def __init__(self, shown: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.shown, self.live = shown, shown and console.is_terminal
        self.bar = Bar(*columns, console=console, disable=not self.live, transient=True)
        self.task = self.bar.add_task("", total=None)
        self.text, self.last = "", time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away, to say what came out."""
        self.bar.stop()

    def show(self, name: str, measure: str, done: int, total: int) -> None:
        """Batch ``done`` of ``total`` begins."""
        self.text = f"{name}: {measure}"
        self.bar.update(self.task, description=self.text, completed=done, total=total)
        now = time.monotonic()
        if not self.live and now - self.last >= _SECONDS_BETWEEN_LINES:
            self.last = now
            self.say(f"{self.text}, batch {done + 1} of {total}")

    def finished(self, name: str, found: Row) -> None:
        """A measure is complete: its metrics, or what the samples cost."""
        told = metric_texts(found.get("metrics", {}))
        told += [f"{title} skipped: {reason}" for title, reason in found.get("metrics_skipped", {}).items()]
        if found.get("nfe"):
            told.append(f"samples, {found['nfe']:g} function evaluations each, {found['seconds']:.1f} s")
        for text in told:
            self.say(f"{name}: {text}")

    def say(self, text: str) -> None:
        """A line."""
        if self.shown:
            print(text, file=sys.stderr, flush=True)

    def observer(self, registry: Registry) -> Observer | None:
        """What a sampler calls after every step; None where nobody listens."""
        hook = registry.hook.scoresde_on_sampling_step
        listeners = hook.get_hookimpls()
        if not (self.live or listeners):
            return None

        def observe(done: int, total: int, x: Any) -> None:
            text = f"{self.text}, step {done} of {total}" if total else f"{self.text}, step {done}"
            self.bar.update(self.task, description=text)
            if listeners:
                hook(done=done, total=total, x=x)

        return observe


def metric_texts(metrics: Row) -> list[str]:
    """``test_loss 0.1234 ± 0.0012`` for every metric of a row."""
    return [
        f"{name} {_number(m['value'], m['stderr'])}{' ' * bool(m['unit'])}{m['unit']}" for name, m in metrics.items()
    ]


def _number(value: float | None, error: float | None) -> str:
    if value is None:  # a row on the disk has no NaN
        return "nan"
    return f"{value:.6g}" + (f" ± {error:.2g}" if error is not None and error == error else "")
