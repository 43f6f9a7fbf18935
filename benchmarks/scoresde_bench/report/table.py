"""Prints the table of results to a terminal or a pipe.

If the terminal is too narrow for all metrics, they are split into several tables, each with the columns that name the
cell, so that no number is cut. A pipe gets one table of any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import published
from .labels import NOTHING, ResultRow, axis_text, columns, count, listing, number_text, title
from .ranking import Ranking, rank

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

FLOOR = "exact samples"
MARKS = {"best": "*", "tied": "~", "": " "}
BLANK = "   "
"""Space for the marks behind a value."""


def print_table(rows: Sequence[ResultRow], console: Console, metric: str | None = None) -> None:
    """Print every done row with its metrics, then the skipped and failed cells with their reasons."""
    ranking = rank(rows, metric)
    shown = _Listing(ranking, console.options.ascii_only)

    def show(line: str, style: str = "") -> None:
        console.print(shown.text(line, style), soft_wrap=not console.is_terminal)

    if ranking.done:
        for metrics in shown.fit(console):
            table, width = shown.table(metrics), console.width
            if console.is_terminal:
                console.print(table, crop=False)
            else:  # at its natural width
                console.width = console.measure(table, options=console.options.update(width=100_000)).maximum
                console.print(table)
                console.width = width
        if metrics := ranking.metrics:
            show("* best   ~ not told apart from the best (95 %, Student's t, Holm)")
            if any(standing.as_good for standing in ranking.standings):
                show("° as good as exact samples (95 %)")
            show(_directions(ranking))
    for sentence in ranking.unjudged:
        show(sentence, "dim")
    for (status, reason), names in sorted(ranking.unfinished.items(), key=lambda group: group[0][0], reverse=True):
        style = "yellow" if status == "skipped" else "red"
        show(f"{count(len(names), 'cell')} {status}: {' '.join(reason.split())}  [{listing(names)}]", style)


class _Listing:
    """The columns of the done rows as text, and below them the scores of exact samples."""

    def __init__(self, ranking: Ranking, ascii_only: bool) -> None:
        self.ranking, self.ascii_only = ranking, ascii_only
        rows, many = list(ranking.done.values()), len(ranking.targets) > 1
        floors = {target: found for target in ranking.targets if (found := self._floors(target))}
        self.floors = {f"{FLOOR} of {target}" if many else FLOOR: found for target, found in floors.items()}
        self.names = {title(axis): [axis_text(row, axis) for row in rows] for axis in columns(rows)}
        self.names["NFE"] = [number_text(row, "nfe") for row in rows]
        self.last = {
            f"published {name}": [published.text(row, name) for row in rows] for name in published.metrics(rows)
        }
        self.last["samples/s"] = [number_text(row, "samples_per_second", 3) for row in rows]
        self.values = {metric: self._column(metric) for metric in ranking.metrics}

    def _floors(self, target: str | None) -> dict[str, str]:
        """The score of exact samples by metric; both extremes if it differs (by seed or size)."""
        found = {}
        for metric in self.ranking.metrics:
            texts = {m.floor: m.floor_text for m in self.ranking.measured(metric, target).values() if m.floor_text}
            if texts:
                found[metric] = " to ".join(dict.fromkeys((texts[min(texts)], texts[max(texts)])))
        return found

    def _column(self, metric: str) -> list[str]:
        """The values of a metric with their marks, then the floors, padded to one width.

        Rich would strip the trailing spaces of right-aligned text, which would misalign the column.
        """
        found = []
        for position in self.ranking.done:
            value, as_good = self.ranking.value(position, metric), self.ranking.as_good(position, metric)
            marks = f" {MARKS[self.ranking.mark(position, metric)]}{'°' if as_good else ' '}"
            found.append(f"{value.text}{marks}" if value else f"{NOTHING}{BLANK}")
        found += [f"{floor.get(metric, NOTHING)}{BLANK}" for floor in self.floors.values()]
        width = max(map(len, found))
        return [text.rjust(width) for text in found]

    def fit(self, console: Console) -> list[list[str]]:
        """Return the metrics in groups that fit the console beside the columns that name a cell."""
        if not console.is_terminal or not self.ranking.metrics:
            return [self.ranking.metrics]
        groups: list[list[str]] = [[]]
        for metric in self.ranking.metrics:
            wider, room = self.table([*groups[-1], metric]), console.options.update(width=100_000)
            if groups[-1] and console.measure(wider, options=room).maximum > console.width:
                groups.append([])
            groups[-1].append(metric)
        return groups

    def text(self, content: str, style: str = "") -> Text:
        """Text in characters that the console has."""
        from rich.text import Text

        if self.ascii_only:
            content = content.replace("±", "+-").replace("°", "o").replace(NOTHING, "-")
            content = content.encode("ascii", "replace").decode()
        return Text(content, style)

    def table(self, metrics: Sequence[str]) -> Table:
        """Return a table of these metrics; its last rows are the floors of the targets."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        text = self.text
        shape = box.ASCII2 if self.ascii_only else box.SIMPLE_HEAD
        table = Table(box=shape, header_style="bold", pad_edge=False)
        for name, texts in self.names.items():
            right = name == "NFE" or all(content.replace(".", "").isdigit() for content in texts)
            table.add_column(text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
        for metric in metrics:
            heading = text(self.ranking.heading(metric, "{}\n({})"))
            table.add_column(Text.assemble(heading, justify="right"), no_wrap=True)
        for name in self.last:
            table.add_column(name, justify="right", no_wrap=True)
        last = len(self.ranking.done) - 1
        for line, position in enumerate(self.ranking.done):
            best = {metric: self.ranking.mark(position, metric) == "best" for metric in metrics}
            values = [text(self.values[metric][line], "bold green" if best[metric] else "") for metric in metrics]
            names, others = ([text(texts[line]) for texts in each.values()] for each in (self.names, self.last))
            table.add_row(*names, *values, *others, end_section=line == last)
        for line, name in enumerate(self.floors, last + 1):
            blank, numbers = [""] * (len(self.names) - 1), [self.values[metric][line] for metric in metrics]
            table.add_row(*map(text, [name, *blank, *numbers]), style="dim")
        return table


def _directions(ranking: Ranking) -> str:
    """Metrics by direction: ``nearest to 0 is best: nll_gap; lower is better: energy_distance, moments``."""
    words = {"zero": "nearest to 0 is best", "higher": "higher is better"}
    grouped: dict[str, list[str]] = {}
    for metric in ranking.metrics:
        grouped.setdefault(words.get(ranking.about(metric)[1], "lower is better"), []).append(metric)
    return "; ".join(f"{direction}: {', '.join(names)}" for direction, names in grouped.items())
