"""A time limit on whatever runs in the main thread of this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0
"""Seconds after which the limit is raised once more, should something have swallowed it."""


class OutOfTime(Exception):
    """What was to end within its limit did not."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raises :class:`OutOfTime` in the body after ``seconds``, at the next return to Python; None: never."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise RuntimeError("a time limit needs the main thread of a process on a POSIX system: leave --timeout out")

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"stopped after {seconds:g} s, its --timeout; give it more, or fewer steps or samples")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
