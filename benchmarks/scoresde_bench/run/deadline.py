"""A time limit for code in the main thread of this process."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0  # seconds after which the exception is raised again, in case it was swallowed


class OutOfTime(Exception):
    """The time limit was exceeded."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise :class:`OutOfTime` in the body after ``seconds``, at the next return to Python; None: never."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a time limit needs the main thread of a process: remove --timeout")

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"stopped after its --timeout of {seconds:g} s; allow more time, or use fewer steps or samples")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
