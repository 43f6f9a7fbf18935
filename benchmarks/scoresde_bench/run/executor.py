"""Executors: where the cells of a sweep run.

An executor takes tasks, has each of them done by :func:`~scoresde_bench.run.worker.perform` (in this process, another
one, or on another machine), and gives back the rows as they come. Whoever asked writes them: there is one writer of
results, whatever runs the cells. In this process a task holds its cell; only one that leaves it becomes text.

    @attrs.frozen
    class PoolExecutor(Executor):
        def run(self, tasks, *, alone, started):
            with ProcessPoolExecutor(1 if alone else 4, get_context("spawn")) as pool:
                yield from pool.map(perform, tasks)

``perform`` keeps models and exact sets from one task to the next: one process does one task at a time, threads do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from scoresde_run.results.results import Row

if TYPE_CHECKING:
    from ..plan.cells import Cell

OnStep = Callable[[int, int], Any]
"""Called after every step of a sampler with (steps done, steps in all; 0: not known)."""


@attrs.frozen
class Settings:
    """What all cells of one command share, as plain data."""

    folder: str
    """Where results go; absolute. Workers write pictures there."""
    directory: str
    """The working directory that relative paths in requests start from."""
    registry: tuple[str, ...] = ()
    """Local registry files, absolute."""
    command: str = ""
    tf32: bool = False
    timeout: float | None = None
    """Seconds after which a cell is stopped, or None."""
    device: str = "cpu"


@attrs.frozen
class Task:
    """One cell to run. As JSON or a pickle it is text, enough for another process or another machine to build it."""

    key: str
    title: str
    _request: dict[str, Any] | None = attrs.field(eq=False)
    settings: Settings
    files: tuple[str, ...] | None = attrs.field(default=None, eq=False)
    """The files that count for the key: one that appears later was made by the run. None: whatever is there."""
    cell: Cell | None = attrs.field(default=None, eq=False)
    """The cell itself, in the process that built it."""

    @classmethod
    def of(cls, cell: Cell, settings: Settings) -> Task:
        """The task to run ``cell``."""
        return cls(cell.key, cell.title, None, settings, tuple(cell.depends["files"]), cell)

    @property
    def request(self) -> dict[str, Any]:
        """The block of a suite that has this cell alone, as plain data."""
        return self.cell.request if self.cell is not None else self._request or {}

    def plain(self) -> dict[str, Any]:
        """It as JSON holds it."""
        own = {"key": self.key, "title": self.title, "request": self.request, "files": self.files}
        return {**own, "settings": attrs.asdict(self.settings)}

    def __reduce__(self) -> tuple[Any, ...]:
        return Task.from_plain, (self.plain(),)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Task:
        """The task that :meth:`plain` gave."""
        settings = {**data["settings"], "registry": tuple(data["settings"]["registry"])}
        files = None if data.get("files") is None else tuple(data["files"])
        return cls(data["key"], data["title"], data["request"], Settings(**settings), files)


Started = Callable[[Task], OnStep | None]
"""To be called as a task starts, where that is known; returns what to call after each of its steps, or None."""


class Executor(ABC):
    """Runs tasks somewhere. Its parameters are its command line: ``--executor 'name[key=value]'``."""

    @abstractmethod
    def run(self, tasks: Iterator[Task], *, alone: bool, started: Started) -> Iterator[Row]:
        """The row of every task, in any order, each once; a task that is lost becomes a row with its reason.

        Take a task from ``tasks`` only when it can start: a time budget may end them. With ``alone`` no two may share
        a device: they measure speed.
        """

    def device(self, name: str) -> str:
        """The device that ``name`` (``auto``: the best there is) means where the tasks run; checked if that is here."""
        from scoresde_run.machine.device import find_device

        return str(find_device(name))

    @property
    def here(self) -> bool:
        """Whether tasks run on this machine, so that it can tell how fast they will be."""
        return True
