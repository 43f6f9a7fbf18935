"""A console of rich whose own codes reach the terminal, and whose texts cannot bring any."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from .visible import visible


class Terminal(Console):
    """Writes to stdout or stderr beside the filter of a command line (:func:`scoresde_run.commands.shell.guarded`)."""

    def __init__(self, stderr: bool = False, **options: Any) -> None:
        stream = sys.stderr if stderr else sys.stdout
        super().__init__(file=getattr(stream, "raw", stream), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the command to end when nobody reads its output; rich would exit with 1."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable`` with :func:`~scoresde_run.machine.visible.visible` text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
