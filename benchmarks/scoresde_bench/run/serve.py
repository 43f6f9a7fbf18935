"""A process that does tasks one after another.

    python -m scoresde_bench.run.serve        says "ready"; then a task in JSON on stdin, its row on stdout

It ends as soon as its stdin does, in the middle of a cell or while it still imports torch: when the one who gives the
tasks is gone, even by a signal that nobody can catch, nothing is left running.
"""

import json
import os
import queue
import sys
import threading
from typing import Any


def main() -> None:
    """Do the tasks that come on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a plugin prints is no answer
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()

    # Only with somebody to listen for the end does this import what takes its time.
    from scoresde_run.machine.device import keep_freed_memory
    from scoresde_run.results.results import to_json

    from .executor import Task
    from .worker import perform

    keep_freed_memory()
    print("ready", file=answers, flush=True)
    while True:
        row = perform(Task.from_plain(tasks.get()))
        print(to_json(row), file=answers, flush=True)


def _listen(tasks: queue.SimpleQueue[Any]) -> None:
    """Reads ahead, so that the end of stdin is noticed while a cell runs."""
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
