"""Figures of a paper beside the cells that repeat its setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..plan.suite import Published
from .labels import NOTHING, Row, labels, quantity
from .ranking import measurement, rank

if TYPE_CHECKING:
    from rich.console import Console


def attach(row: dict[str, Any], figures: Sequence[Published]) -> dict[str, Any]:
    """The row with ``published``: {metric: {value, stderr}} of the figures that belong to it."""
    found = {f.metric: {"value": f.value, "stderr": f.stderr} for f in figures if f.fits(row)}
    return {**row, "published": found} if found else row


def print_published(rows: Sequence[Row], console: Console) -> None:
    """A table of the published figures beside what was measured here, for the rows that have any."""
    from rich import box
    from rich.table import Table

    shown = [row for row in rows if row.get("published")]
    if not shown:
        return
    metrics = list(dict.fromkeys(metric for row in shown for metric in row["published"]))
    ours = rank(rows).primary
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="published, beside what was measured here")
    table.add_column("cell", no_wrap=not console.is_terminal)
    for metric in metrics:
        table.add_column(f"published {metric}", justify="right", no_wrap=True)
    if ours:
        table.add_column(ours, justify="right", no_wrap=True)
    for label, row in zip(labels(shown), shown, strict=True):
        texts = [_text(row["published"].get(metric)) for metric in metrics]
        found = measurement(row, ours) if ours else None
        table.add_row(label, *texts, *([found.text if found else NOTHING] if ours else []))
    console.print(table)


def _text(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return NOTHING
    stderr = figure.get("stderr")
    return f"{figure['value']:g}" if stderr is None else quantity(figure["value"], stderr)
