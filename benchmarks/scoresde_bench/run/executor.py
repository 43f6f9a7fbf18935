"""Executors run the cells of a sweep.

An executor takes tasks, runs each with :func:`~scoresde_bench.run.worker.perform` (in this process, in another, or on
another machine), and yields the rows as they arrive. The caller writes them, so that results have one writer. In this
process a task holds its cell; a task that leaves the process becomes text.
``perform`` keeps models and exact samples from one task to the next, so a process runs one task at a time, not several
in threads. docs/bench.md has an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_run import Row

if TYPE_CHECKING:
    from ..plan.cells import Cell

OnStep = Callable[[int, int], Any]
"""Called after every sampler step with (steps done, steps in total; 0: unknown)."""


@attrs.frozen
class Settings:
    """Settings shared by all cells of one command, as plain data."""

    folder: str  # absolute path of the folder for results, where workers write pictures
    directory: str  # working directory, to which paths in requests are relative
    registry: tuple[str, ...] = ()  # absolute paths of local registry files
    command: str = ""
    tf32: bool = False
    timeout: float | None = None  # seconds after which a cell is stopped; None: no limit
    device: str = "cpu"


@attrs.frozen
class Task:
    """One cell to run. As JSON or pickle it is text, from which another process or machine builds the cell."""

    key: str
    title: str
    request: dict[str, Any] = attrs.field(eq=False)
    """The block of a suite that describes this cell alone, as plain data."""
    settings: Settings
    files: tuple[str, ...] | None = attrs.field(default=None, eq=False)
    """Files that count for the key, without those that the run itself makes later. None: all that exist."""
    cell: Cell | None = attrs.field(default=None, eq=False)  # the built cell, in the process that planned it

    @classmethod
    def of(cls, cell: Cell, settings: Settings) -> Task:
        """Return the task to run ``cell``."""
        return cls(cell.key, cell.title, cell.request, settings, tuple(cell.depends["files"]), cell)

    def plain(self) -> dict[str, Any]:
        """Return the task as plain data for JSON."""
        return attrs.asdict(self, filter=attrs.filters.exclude("cell"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Task.from_plain, (self.plain(),)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Task:
        """Return the task from the data of :meth:`plain`."""
        settings = {**data["settings"], "registry": tuple(data["settings"]["registry"])}
        files = None if data.get("files") is None else tuple(data["files"])
        return cls(data["key"], data["title"], data["request"], Settings(**settings), files)


Started = Callable[[Task], OnStep | None]
"""Call this when a task starts, if known; returns a function to call after each of its steps, or None."""


class Executor(ABC):
    """Runs tasks. Its parameters are set on the command line: ``--executor 'name[key=value]'``."""

    @abstractmethod
    def run(self, tasks: Iterator[Task], *, alone: bool, started: Started) -> Iterator[Row]:
        """Yield the row of every task once, in any order; a lost task becomes a row with its reason.

        Take a task from ``tasks`` only when it can start, because a time budget may end them. With ``alone`` the tasks
        measure speed and no two may share a device.
        """

    def device(self, name: str) -> str:
        """Return the device for ``name`` (``auto``: the best available) where tasks run; checked if on this machine."""
        from scoresde_run.machine.device import find_device

        return str(find_device(name))

    @property
    def here(self) -> bool:
        """Whether tasks run on this machine, so that their speed can be measured here."""
        return True
