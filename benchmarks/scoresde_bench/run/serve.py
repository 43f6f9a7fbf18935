"""A worker process that runs tasks one after another.

    python -m scoresde_bench.run.serve        prints "ready"; then reads tasks on stdin, writes rows on stdout (JSON)

It exits as soon as its stdin ends, even in the middle of a cell or while it imports torch, so that no worker is left
running when the parent is gone, even if killed.
"""

import json
import os
import queue
import sys
import threading
from typing import Any


def main() -> None:
    """Run the tasks on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of plugins must not mix with the answers
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()

    # Imports that take long come after the listening thread has started.
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
    """Read ahead, so that the end of stdin is noticed while a cell runs."""
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
