"""The HTML report: one self-contained file that can be read without its script.

Its parts, in order: the best cells and those not told apart from them, quality against cost, convergence, changes
between runs, samples, all values, cells that did not run, how to read the metrics, the environment, and the commands.
The script adds sorting, filtering, tooltips and copying.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scoresde_run.machine import files
from scoresde_run.machine.digest import sealed

from . import published, repeat, scales
from .compare import RunComparison
from .convergence import Convergence, convergences
from .labels import (
    NOTHING,
    NUMBER_AXES,
    TITLES,
    ResultRow,
    as_float,
    axis_text,
    columns,
    count,
    number_text,
    plain,
    varying,
)
from .lines import MANY, Layout, layout
from .plot import NFE, TIME, TRAINING, Plot, plots
from .ranking import Ranking, rank
from .result_sets import ResultSet

DIRECTIONS = {"lower": "Lower is better.", "higher": "Higher is better.", "zero": "Nearest to 0 is best."}
PNG = b"\x89PNG\r\n\x1a\n"
GALLERY = 24
"""Number of pictures shown; the rest unfold on request."""


@attrs.frozen
class Picture:
    """The picture of one cell's samples, embedded or linked; None if it is missing."""

    cell: str
    label: str
    caption: str
    source: str | None
    mark: str


@attrs.frozen
class MetricPlots:
    """The plots of one metric on one target; with several panels, those against time are folded."""

    metric: str
    title: str
    plots: list[Plot]
    folded: list[Plot]
    leads: bool


def write_report(
    rows: Sequence[ResultRow], path: str | Path, command: str, meaning: Mapping[str, str] | None = None
) -> Path:
    """Write the report of ``rows`` to ``path`` and return ``path``; ``command`` reproduces the rows.

    Pictures are read from ``row["picture"]``, relative to the folder of ``path``; one that does not exist, is not a PNG
    or lies outside that folder is shown as missing. ``meaning`` describes metrics by name.
    Raises FileError if ``path`` cannot be written.
    """
    path = Path(path)
    run = ResultSet(path.resolve().parent.name, path.parent, [{**row, "command": command} for row in rows])
    ranking = rank([{"folder": str(path.parent), **row} for row in rows])
    return write_text(page([run], ranking, meaning or {}, place=path.parent), path)


def write_text(text: str, path: Path) -> Path:
    """Write ``text`` to ``path`` as a whole or not at all. Raises FileError."""
    page = text.encode(errors="replace")
    files.write(path, sealed(page) if page.startswith(b"<!doctype html>") else page)
    return path


def page(
    runs: Sequence[ResultSet],
    ranking: Ranking,
    meaning: Mapping[str, str],
    comparisons: Sequence[RunComparison] = (),
    place: Path | None = None,
) -> str:
    """Return the page of ``ranking``, whose rows come from ``runs``.

    Of more than MANY cells, a page in the folder ``place`` links the pictures that are not shown first, draws the
    leading lines, and shows the first rows of its table until it is asked for more.
    """
    environment = _environment()
    # Two of our templates, which contain no data of rows.
    script, style = (Markup(environment.get_template(f"report.{kind}.j2").render(many=MANY)) for kind in ("js", "css"))
    drawn = layout(ranking)
    pictures = _pictures(ranking, place)
    return environment.get_template("report.html.j2").render(
        script=script,
        style=style,
        script_hash=_digest(script),
        style_hash=_digest(style),
        runs=runs,
        ranking=ranking,
        ids=_ids(ranking.rows),
        drawn=drawn,
        figures=list(_figures(ranking, drawn)),
        training=_training(ranking),
        convergences=_grouped(convergences(ranking, drawn)),
        frame=scales,
        comparisons=comparisons,
        many=MANY,
        undrawn=len(ranking.done) - len(drawn.lines),
        pictures=pictures[:GALLERY],
        further_pictures=pictures[GALLERY:],
        headings=[(TITLES.get(axis, axis), _kind(axis)) for axis in columns([*ranking.done.values()])],
        table=list(_table(ranking)),
        published=published.metrics(ranking.rows),
        sources=published.sources(ranking.rows),
        metrics=list(_metrics(ranking, meaning)),
        tally=_tally(ranking),
        environment=facts(ranking.rows),
        commands={position: repeat.command(row) for position, row in ranking.done.items()},
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("scoresde_bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = lambda value: f"{value:.1f}".removesuffix(".0")
    return environment


def _digest(text: str) -> str:
    """The hash with which the page's content security policy admits its own script and style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _ids(rows: Sequence[ResultRow]) -> list[str]:
    """A unique id for each row: its cell, numbered if several runs have it."""
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        cell = str(row.get("cell", ""))
        seen[cell] += 1
        names.append(cell if seen[cell] == 1 else f"{cell}-{seen[cell]}")
    return names


def _figures(ranking: Ranking, drawn: Layout) -> Iterable[MetricPlots]:
    """The plots against function evaluations and against time, by metric."""
    counted, timed = ([*plots(ranking, cost, drawn)] for cost in (NFE, TIME))
    many = len(drawn.titles) > 1
    for metric, target in dict.fromkeys((plot.metric, plot.target) for plot in [*counted, *timed]):
        first, second = ([p for p in found if (p.metric, p.target) == (metric, target)] for found in (counted, timed))
        title = f"{metric} on {target}" if len(ranking.targets) > 1 and target else metric
        leads = metric == ranking.primary or not many
        yield MetricPlots(metric, title, first if many else [*first, *second], second if many else [], leads)


def _training(ranking: Ranking) -> dict[str, Any] | None:
    """The plots against the training steps of checkpoints, if these vary."""
    if "training_step" not in varying([*ranking.done.values()]):
        return None
    drawn = layout(ranking, TRAINING.joined)
    return {"drawn": drawn, "plots": plots(ranking, TRAINING, drawn)}


def _grouped(found: Sequence[Convergence]) -> list[tuple[str, list[Convergence]]]:
    names = dict.fromkeys(one.plot.metric for one in found)
    return [(name, [one for one in found if one.plot.metric == name]) for name in names]


def _table(ranking: Ranking) -> Iterable[dict[str, Any]]:
    """The done rows: their axes, cost, and every metric with its mark."""
    axes, printed = columns([*ranking.done.values()]), published.metrics(ranking.rows)
    widths = {metric: _stderr_width(ranking, metric) for metric in ranking.metrics}
    for position, row in ranking.done.items():
        yield {
            "position": position,
            "axes": [(axis_text(row, axis), _kind(axis)) for axis in axes],
            "nfe": number_text(row, "nfe"),
            "speed": number_text(row, "samples_per_second", 3),
            "values": [_value(ranking, position, metric, widths[metric]) for metric in ranking.metrics],
            "published": [published.text(row, metric) or NOTHING for metric in printed],
        }


def _value(ranking: Ranking, position: int, metric: str, width: int) -> dict[str, Any] | None:
    """A value, split at its ``±`` so that the signs of a column align."""
    found = ranking.value(position, metric)
    if found is None:
        return None
    value, _, stderr = found.text.partition(" ± ")
    mark, floor = ranking.mark(position, metric), ranking.as_good(position, metric)
    order = f"{found.badness:.9g}"
    return {"value": value, "stderr": stderr, "width": width, "mark": mark, "floor": floor, "order": order}


def _stderr_width(ranking: Ranking, metric: str) -> int:
    """Width in characters of a column's errors with their sign, without the widest 5 %."""
    widths = sorted(len(found.text.partition(" ± ")[2]) for found in ranking.measured(metric).values())
    return min(24, widths[(len(widths) - 1) * 19 // 20] + 3)


def _kind(axis: str) -> str:
    """The kind of a column: numbers are aligned right."""
    return "number" if axis in NUMBER_AXES else "name"


def _pictures(ranking: Ranking, place: Path | None) -> list[Picture]:
    """The pictures of the done rows in order; if some are folded, those of the leading cells come first.

    Empty if no picture exists: committed results may come without them.
    """
    shown = [position for position, row in ranking.done.items() if row.get("picture")]
    if len(shown) > GALLERY:
        marks = {position: ranking.mark(position, ranking.primary or "") for position in shown}
        shown.sort(key=lambda position: ("best", "tied", "").index(marks[position]))
    found, ids, primary = [], _ids(ranking.rows), ranking.primary or ""
    linked = place if len(ranking.done) > MANY else None
    for number, position in enumerate(shown):
        row, measured = ranking.rows[position], ranking.value(position, primary)
        caption = f"{primary} {measured.text_with_unit}" if measured else ""
        folder, relative = Path(str(row.get("folder", "."))), str(row["picture"])
        source = _source(folder, relative, linked if number >= GALLERY else None)
        found.append(Picture(ids[position], ranking.labels[position], caption, source, ranking.mark(position, primary)))
    return [] if len(found) > 1 and not any(picture.source for picture in found) else found


def _source(folder: Path, relative: str, place: Path | None) -> str | None:
    """The PNG as a data URI, or as a link from a page in ``place``.

    Reads nothing outside the folder, because results may come from elsewhere.
    """
    try:
        inside = folder.resolve()
        picture = (inside / relative).resolve()
        if not picture.is_relative_to(inside):
            return None
        with picture.open("rb") as file:
            content = file.read(len(PNG) if place else -1)
        if not content.startswith(PNG):
            return None
        if place:
            return quote(os.path.relpath(picture, place.resolve()))
        return "data:image/png;base64," + base64.b64encode(content).decode()
    except (OSError, ValueError):
        return None


def _metrics(ranking: Ranking, meaning: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """How to read each metric: its meaning, direction, and the score of exact samples."""
    for metric in ranking.metrics:
        first, *_ = found = [*ranking.measured(metric).values()]
        floors = list(dict.fromkeys(m.floor_text for m in found if m.floor_text))
        said = meaning.get(metric, "").removesuffix(".")
        score = f"Exact samples of this size score {floors[0]} {first.unit}".rstrip() + "." if len(floors) == 1 else ""
        told = {"direction": DIRECTIONS.get(first.better, DIRECTIONS["lower"]), "floor": score}
        yield {"name": metric, "unit": first.unit, "meaning": said and f"{said}.", **told}


def _tally(ranking: Ranking) -> list[str]:
    """Counts in words: ``12 cells done``, ``2 skipped``, ``1 failed``."""
    statuses = [row.get("status") if row.get("status") in ("done", "skip") else "failed" for row in ranking.rows]
    others = [("skip", "skipped"), ("failed", "failed")]
    words = [f"{statuses.count(key)} {word}" for key, word in others if key in statuses]
    return [f"{count(statuses.count('done'), 'cell')} done", *words]


def facts(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    """Return the environment in which the cells were measured; several values where they differ."""
    found = [(title, _distinct(rows, key)) for title, key in (
        ("Device", "device"), ("Platform", "platform"), ("Precision", "dtype"), ("TF32", "tf32"),
        ("Samples per cell", "samples"), ("Batch size", "batch_size"), ("Seed", "seed"), ("Seeds", "seeds"),
        ("scoresde", "scoresde"), ("Commit", "git"), ("torch", "torch"), ("Python", "python"),
    )]  # fmt: skip
    plugins = {f"{name} {version}" for row in rows for name, version in (row.get("plugins") or {}).items()}
    found.append(("Plugins", ", ".join(sorted(plugins))))
    dates = sorted(str(row["date"]).replace("T", " ")[:16] for row in rows if row.get("date"))
    found.append(("Measured", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""))
    cells = [(as_float(row.get("seconds")), len(row.get("seeds") or [0])) for row in rows]
    seconds = [value * many for value, many in cells if value > 0]
    found.append(("Sampling time", f"{plain(sum(seconds), 3)} s in total" if seconds else ""))
    memory = [value for row in rows if (value := as_float(row.get("peak_memory_bytes"))) > 0]
    found.append(("Peak memory", f"{plain(max(memory) / 2**20, 3)} MiB" if memory else ""))
    return [(title, value) for title, value in found if value]


def _distinct(rows: Sequence[ResultRow], key: str) -> str:
    known = (row for row in rows if row.get(key) is not None)
    texts = (", ".join(map(str, row[key])) if isinstance(row[key], list) else axis_text(row, key) for row in known)
    values = list(dict.fromkeys(texts))
    return ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
