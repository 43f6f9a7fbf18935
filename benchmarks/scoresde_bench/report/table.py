"""Prints the table of results to a terminal or a pipe.

If the terminal is too narrow for all metrics, they are split into several tables, each with the columns that name the
cell, so that no number is cut. A pipe gets one table of any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import published
from .labels import (
    NOTHING,
    TITLES,
    ResultRow,
    axis_text,
    columns,
    count,
    is_done,
    labels,
    listing,
    number_text,
)
from .ranking import Ranking, metric_value, rank

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

FLOOR = "exact samples"
MARKS = {"best": "*", "tied": "~", "": " "}
BLANK = "   "
"""Space for the marks behind a value."""


def print_table(rows: Sequence[ResultRow], console: Console, metric: str | None = None) -> None:
    """Print every done row with its metrics, then the skipped and failed cells with their reasons."""
    from rich.text import Text

    ranking = rank(rows, metric)
    done = [position for position, row in enumerate(ranking.rows) if is_done(row)]
    ascii_only = console.options.ascii_only

    def show(line: str, style: str = "") -> None:
        console.print(Text(_ascii(line) if ascii_only else line, style), soft_wrap=not console.is_terminal)

    if done:
        cells, floors = _identity(ranking, done), _floors(ranking)
        for names in _fit(ranking, done, cells, floors, console):
            table = _table(ranking, done, names, cells, floors, ascii_only)
            console.print(_Uncut(table) if not console.is_terminal else table, crop=False)
        if metrics := ranking.metrics:
            show("* best   ~ not told apart from the best (95 %, Student's t, Holm)")
            if any(ranking.as_good(position, metric) for position in done for metric in metrics):
                show("° as good as exact samples (95 %)")
            show(_directions(ranking, metrics))
    for sentence in ranking.unjudged:
        show(sentence, "dim")
    for group in sorted(ranking.unfinished, key=lambda group: group.status, reverse=True):
        style = "yellow" if group.status == "skipped" else "red"
        reason = " ".join(group.reason.split())
        show(f"{count(len(group.labels), 'cell')} {group.status}: {reason}  [{listing(group.labels)}]", style)


class _Uncut:
    """A table at its natural width, regardless of the console."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(width=100_000)
        width = self.table.__rich_measure__(console, wide).maximum
        yield from console.render(self.table, wide.update(width=width))


def _identity(ranking: Ranking, done: Sequence[int]) -> dict[str, list[str]]:
    """The columns that name a cell and its cost, as text: axes that vary, NFE, and last the throughput."""
    rows = [ranking.rows[position] for position in done]
    cells = {TITLES.get(axis, axis): [axis_text(row, axis) for row in rows] for axis in columns(rows)}
    cells["NFE"] = [number_text(row, "nfe") for row in rows]
    cells["samples/s"] = [number_text(row, "samples_per_second", 3) for row in rows]
    return cells


def _floors(ranking: Ranking) -> dict[str | None, dict[str, str]]:
    """The score of exact samples by target and metric; both extremes if it differs (by seed or size)."""
    found: dict[str | None, dict[str, str]] = {}
    for target in ranking.targets:
        for metric in ranking.metrics:
            entries = {
                m.floor: m.floor_text
                for position, row in enumerate(ranking.rows)
                if row.get("target") == target and (m := ranking.value(position, metric)) and m.floor_text
            }
            if entries:
                ends = list(dict.fromkeys((entries[min(entries)], entries[max(entries)])))
                found.setdefault(target, {})[metric] = " to ".join(ends)
    return found


def _value(ranking: Ranking, position: int, metric: str) -> str:
    found = ranking.value(position, metric)
    if found is None:
        return f"{NOTHING}{BLANK}"
    return f"{found.text} {MARKS[ranking.mark(position, metric)]}{'°' if ranking.as_good(position, metric) else ' '}"


def _fit(
    ranking: Ranking,
    done: Sequence[int],
    cells: dict[str, list[str]],
    floors: dict[str | None, dict[str, str]],
    console: Console,
) -> list[list[str]]:
    """The metrics in groups that fit the console beside the columns that name a cell."""
    if not console.is_terminal or not ranking.metrics:
        return [ranking.metrics]
    padding = 3  # between columns
    columns = [[title, *texts] for title, texts in cells.items()]
    columns[0] += [_floor_name(ranking, target) for target in floors]
    room = free = console.width - sum(max(map(len, column)) + padding for column in columns)
    groups: list[list[str]] = [[]]
    for metric in ranking.metrics:
        texts = [_value(ranking, position, metric) for position in done]
        texts += [f"{floor[metric]}{BLANK}" for floor in floors.values() if metric in floor]
        needed = max(map(len, [*_heading(ranking, metric).split("\n"), *texts])) + padding
        if groups[-1] and needed > room:
            groups.append([])
            room = free
        groups[-1].append(metric)
        room -= needed
    return groups


def _floor_name(ranking: Ranking, target: str | None) -> str:
    return f"{FLOOR} of {target}" if len(ranking.targets) > 1 else FLOOR


def _heading(ranking: Ranking, metric: str) -> str:
    unit = next((m.unit for p in range(len(ranking.rows)) if (m := ranking.value(p, metric))), "")
    return f"{metric}\n({unit})" if unit else metric


def _table(
    ranking: Ranking,
    done: Sequence[int],
    metrics: Sequence[str],
    cells: dict[str, list[str]],
    floors: dict[str | None, dict[str, str]],
    ascii_only: bool,
) -> Table:
    """A table of these metrics; its last rows are the floors of the targets."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def text(content: str, style: str = "") -> Text:
        return Text(_ascii(content) if ascii_only else content, style)

    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    *names, speed = cells
    for title in names:
        right = title == "NFE" or all(content.replace(".", "").isdigit() for content in cells[title])
        table.add_column(text(title), justify="right" if right else "left", overflow="fold", no_wrap=right)
    width = {}
    for metric in metrics:
        # Pad here: Rich strips the trailing spaces of right-aligned text, which would misalign the column.
        width[metric] = max(len(_value(ranking, position, metric)) for position in done)
        width[metric] = max(width[metric], *(len(floor.get(metric, "")) + len(BLANK) for floor in floors.values()), 0)
        table.add_column(Text.assemble(text(_heading(ranking, metric)), justify="right"), no_wrap=True)
    table.add_column(speed, justify="right", no_wrap=True)
    for line, position in enumerate(done):
        values = []
        for metric in metrics:
            style = "bold green" if ranking.mark(position, metric) == "best" else ""
            values.append(text(_value(ranking, position, metric).rjust(width[metric]), style))
        table.add_row(
            *(text(cells[title][line]) for title in names),
            *values,
            text(cells[speed][line]),
            end_section=position == done[-1],
        )
    for target, floor in floors.items():
        blank = [""] * (len(names) - 1)
        numbers = [f"{floor.get(metric, NOTHING)}{BLANK}".rjust(width[metric]) for metric in metrics]
        table.add_row(*map(text, [_floor_name(ranking, target), *blank, *numbers, ""]), style="dim")
    return table


def _directions(ranking: Ranking, metrics: Sequence[str]) -> str:
    """Metrics by direction: ``nearest to 0 is best: nll_gap; lower is better: energy_distance, moments``."""
    words = {"zero": "nearest to 0 is best", "higher": "higher is better"}
    grouped: dict[str, list[str]] = {}
    for metric in metrics:
        first = next(m for p in range(len(ranking.rows)) if (m := ranking.value(p, metric)))
        grouped.setdefault(words.get(first.better, "lower is better"), []).append(metric)
    return "; ".join(f"{direction}: {', '.join(names)}" for direction, names in grouped.items())


def _ascii(text: str) -> str:
    return text.replace("±", "+-").replace("°", "o").replace(NOTHING, "-").encode("ascii", "replace").decode()


def print_published(rows: Sequence[ResultRow], console: Console) -> None:
    """Print published values beside measured ones, for the rows that have any."""
    from rich import box
    from rich.table import Table

    shown = [row for row in rows if row.get("published")]
    if not shown:
        return
    metrics, ours = published.metrics(shown), rank(rows).primary
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="published, beside what was measured here")
    table.add_column("cell", no_wrap=not console.is_terminal)
    for title in (*(f"published {metric}" for metric in metrics), *([ours] if ours else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for label, row in zip(labels(shown), shown, strict=True):
        found = metric_value(row, ours) if ours else None
        measured = [found.text if found else NOTHING] if ours else []
        table.add_row(label, *(published.text(row, metric) or NOTHING for metric in metrics), *measured)
    console.print(table)
