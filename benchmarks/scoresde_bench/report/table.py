"""Prints the table of results to a terminal or a pipe.

If the terminal is too narrow for all metrics, they are split into several tables, each with the columns that name the
cell, so that no number is cut. A pipe gets one table of any width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from . import published
from .labels import NOTHING, TITLES, ResultRow, axis_text, columns, count, listing, number_text
from .ranking import Ranking, rank

FLOOR = "exact samples"
MARKS = {"best": "*", "tied": "~", "": " "}
BLANK = "   "  # space for the marks behind a value


def print_table(rows: Sequence[ResultRow], console: Console, metric: str | None = None) -> None:
    """Print every done row with its metrics, then the skipped and failed cells with their reasons."""
    ranking = rank(rows, metric)

    def text(content: str, style: str = "") -> Text:
        """Text in characters that the console has."""
        if console.options.ascii_only:
            content = content.replace("±", "+-").replace("°", "o").replace(NOTHING, "-")
            content = content.encode("ascii", "replace").decode()
        return Text(content, style)

    def show(line: str, style: str = "") -> None:
        console.print(text(line, style), soft_wrap=not console.is_terminal)

    if ranking.done:
        make = _tables(ranking, console, text)
        for metrics in _fit(ranking.metrics, console, make):
            table, width = make(metrics), console.width
            if not console.is_terminal:  # at its natural width
                console.width = _width(table, console)
            console.print(table, crop=False)
            console.width = width
        if ranking.metrics:
            show("* best   ~ not told apart from the best (95 %, Student's t, Holm)")
            if any(standing.as_good for standing in ranking.standings):
                show("° as good as exact samples (95 %)")
            show(_directions(ranking))
    for sentence in ranking.unjudged:
        show(sentence, "dim")
    for (status, reason), names in sorted(ranking.unfinished.items(), key=lambda group: group[0][0], reverse=True):
        style = "yellow" if status == "skipped" else "red"
        show(f"{count(len(names), 'cell')} {status}: {' '.join(reason.split())}  [{listing(names)}]", style)


def _tables(ranking: Ranking, console: Console, text: Callable[..., Text]) -> Callable[[Sequence[str]], Table]:
    """Return a function that makes the table of some metrics; its last rows are the scores of exact samples."""
    rows, many = list(ranking.done.values()), len(ranking.targets) > 1
    floors = {target: found for target in ranking.targets if (found := _floors(ranking, target))}
    names = {TITLES.get(axis, axis): [axis_text(row, axis) for row in rows] for axis in columns(rows)}
    names["NFE"] = [number_text(row, "nfe") for row in rows]
    if any(row.get("products") is not None for row in rows):
        names["Jacobian products"] = [number_text(row, "products") for row in rows]
    last = {f"published {name}": [published.text(row, name) for row in rows] for name in published.metrics(rows)}
    last["samples/s"] = [number_text(row, "samples_per_second", 3) for row in rows]
    values = {metric: _column(ranking, metric, floors.values()) for metric in ranking.metrics}

    def make(metrics: Sequence[str]) -> Table:
        shape = box.ASCII2 if console.options.ascii_only else box.SIMPLE_HEAD
        table = Table(box=shape, header_style="bold", pad_edge=False)
        for name, texts in names.items():
            right = name == "NFE" or all(content.replace(".", "").isdigit() for content in texts)
            table.add_column(text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
        for metric in metrics:
            heading = text(ranking.heading(metric, "{}\n({})"))
            table.add_column(Text.assemble(heading, justify="right"), no_wrap=True)
        for name in last:
            table.add_column(name, justify="right", no_wrap=True)
        for line, position in enumerate(ranking.done):
            cells = [text(texts[line]) for texts in names.values()]
            for metric in metrics:
                best = ranking.mark(position, metric) == "best"
                cells.append(text(values[metric][line], "bold green" if best else ""))
            table.add_row(*cells, *(text(texts[line]) for texts in last.values()), end_section=line == len(rows) - 1)
        for line, target in enumerate(floors, len(rows)):
            own = [f"{FLOOR} of {target}" if many else FLOOR, *[""] * (len(names) - 1)]
            table.add_row(*map(text, [*own, *(values[metric][line] for metric in metrics)]), style="dim")
        return table

    return make


def _floors(ranking: Ranking, target: str | None) -> dict[str, str]:
    """The score of exact samples by metric; both extremes if it differs (by seed or size)."""
    found = {}
    for metric in ranking.metrics:
        texts = {m.floor: m.floor_text for m in ranking.measured(metric, target).values() if m.floor_text}
        if texts:
            found[metric] = " to ".join(dict.fromkeys((texts[min(texts)], texts[max(texts)])))
    return found


def _column(ranking: Ranking, metric: str, floors: Iterable[Mapping[str, str]]) -> list[str]:
    """The values of a metric with their marks, then the floors, padded to one width.

    Rich would strip the trailing spaces of right-aligned text, which would misalign the column.
    """
    found = []
    for position in ranking.done:
        value, good = ranking.value(position, metric), "°" if ranking.as_good(position, metric) else " "
        found.append(f"{value.text} {MARKS[ranking.mark(position, metric)]}{good}" if value else f"{NOTHING}{BLANK}")
    found += [f"{floor.get(metric, NOTHING)}{BLANK}" for floor in floors]
    width = max(map(len, found))
    return [text.rjust(width) for text in found]


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=100_000)).maximum


def _fit(metrics: Sequence[str], console: Console, make: Callable[[Sequence[str]], Table]) -> list[list[str]]:
    """The metrics in groups that fit the console beside the columns that name a cell."""
    groups: list[list[str]] = [[]]
    for metric in metrics:
        if console.is_terminal and groups[-1] and _width(make([*groups[-1], metric]), console) > console.width:
            groups.append([])
        groups[-1].append(metric)
    return groups


def _directions(ranking: Ranking) -> str:
    """Metrics by direction: ``nearest to 0 is best: nll_gap; lower is better: energy_distance, moments``."""
    words = {"zero": "nearest to 0 is best", "higher": "higher is better"}
    grouped: dict[str, list[str]] = {}
    for metric in ranking.metrics:
        grouped.setdefault(words.get(ranking.about(metric)[1], "lower is better"), []).append(metric)
    return "; ".join(f"{direction}: {', '.join(names)}" for direction, names in grouped.items())
