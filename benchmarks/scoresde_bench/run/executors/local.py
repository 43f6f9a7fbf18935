"""Runs cells one after another in this process."""

from collections.abc import Iterator

import attrs
from scoresde_run import Row
from ..executor import Executor, Started, Task
from ..worker import perform


@attrs.frozen
class LocalExecutor(Executor):
    """Runs cells one after another in this process, with their steps on the progress bar."""

    def run(self, tasks: Iterator[Task], *, alone: bool, started: Started) -> Iterator[Row]:
        for task in tasks:
            yield perform(task, started(task))
