"""A worker process that runs tasks one after another.

    python -m scoresde_bench.run.serve FD     sends "ready" over the connection FD; then reads tasks, sends rows as JSON

It exits as soon as the connection ends, even in the middle of a cell or while it imports torch, so that no worker is
left running when the parent is gone, even if killed.
"""

import os
import queue
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Run the tasks that arrive until the connection ends."""
    os.dup2(2, 1)  # what plugins print is no output of the command
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()

    # Imports that take long come after the listening thread has started.
    from scoresde_run.machine.device import keep_freed_memory
    from scoresde_run.results.results import to_json
    from .executor import Task
    from .worker import perform

    keep_freed_memory()
    connection.send("ready")
    while True:
        connection.send(to_json(perform(Task.from_plain(tasks.get()))))


def _listen(connection: "Connection[Any, Any]", tasks: queue.SimpleQueue[Any]) -> None:
    """Read ahead, so that the end of the connection is noticed while a cell runs."""
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    os._exit(0)


if __name__ == "__main__":
    main()
