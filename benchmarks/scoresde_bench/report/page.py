"""The HTML report: one self-contained file that can be read without its script.

Its parts, in order: the best cells and those not told apart from them, quality against cost, convergence, verdicts on
samplers, changes between runs, samples, all values, cells that did not run, how to read the metrics, the environment,
and the commands.
The script adds sorting, filtering, tooltips and copying.
"""

import base64
import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from scoresde_run.machine import files
from scoresde_run.machine.digest import sealed
from . import labels, published, repeat, scales
from .compare import RunComparison
from .export import templates
from .labels import ResultRow, as_float, axis_text, plain, varying
from .lines import MANY, Layout
from .plot import NFE, TIME, TRAINING, Plot, convergences, plots
from .ranking import Ranking, rank
from .result_sets import ResultSet
from .verdicts import verdicts

PNG = b"\x89PNG\r\n\x1a\n"
GALLERY = 24  # number of pictures shown; the rest unfold on request


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
    page = text.encode(errors="replace")
    files.write(path, sealed(page) if page.startswith(b"<!doctype html>") else page)
    return path


def page(
    runs: Sequence[ResultSet], ranking: Ranking, meaning: Mapping[str, str],
    comparisons: Sequence[RunComparison] = (), place: Path | None = None,
) -> str:  # fmt: skip
    """Return the page of ``ranking``, whose rows come from ``runs``.

    Of more than MANY cells, a page in the folder ``place`` links the pictures that are not shown first, draws the
    leading lines, and shows the first rows of its table until it is asked for more.
    """
    environment = templates(escape=True)
    environment.filters |= {
        "px": lambda value: f"{value:.1f}".removesuffix(".0"),
        # With this hash the page's content security policy admits its own script and style.
        "digest": lambda text: "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    # Two of our templates, which contain no data of rows.
    script, style = (Markup(environment.get_template(f"report.{kind}.j2").render(many=MANY)) for kind in ("js", "css"))
    drawn, pictures = Layout(ranking), _pictures(ranking, place)
    trained = "training_step" in varying([*ranking.done.values()])
    return environment.get_template("report.html.j2").render(
        script=script, style=style, runs=runs, ranking=ranking, ids=_ids(ranking.rows), drawn=drawn, many=MANY,
        figures=_figures(ranking, drawn), convergences=convergences(ranking, drawn), frame=scales, plots=plots,
        cost=TRAINING, training=Layout(ranking, TRAINING.joined) if trained else None, comparisons=comparisons,
        pictures=pictures[:GALLERY], further_pictures=pictures[GALLERY:], meaning=meaning, labels=labels,
        widths={metric: _stderr_width(ranking, metric) for metric in ranking.metrics}, published=published,
        environment=facts(ranking.rows), repeat=repeat, verdicts=verdicts(ranking),
    )  # fmt: skip


def _ids(rows: Sequence[ResultRow]) -> list[str]:
    """A unique id for each row: its cell, numbered if several runs have it."""
    seen: Mapping[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    cells = [str(row.get("cell", "")) for row in rows]
    return [cell if (number := next(seen[cell])) == 1 else f"{cell}-{number}" for cell in cells]


def _figures(ranking: Ranking, drawn: Layout) -> dict[tuple[str, str | None], tuple[list[Plot], list[Plot]]]:
    """The plots by metric and target; those of the second list, against time, are folded if there are panels."""
    found = defaultdict[tuple[str, str | None], tuple[list[Plot], list[Plot]]](lambda: ([], []))
    for cost in (NFE, TIME):
        for plot in plots(ranking, cost, drawn):
            found[plot.metric, plot.target][cost is TIME and len(drawn.titles) > 1].append(plot)
    return found


def _stderr_width(ranking: Ranking, metric: str) -> int:
    """Width in characters of a column's errors with their sign, without the widest 5 %."""
    widths = sorted(len(found.text.partition(" ± ")[2]) for found in ranking.measured(metric).values())
    return min(24, widths[(len(widths) - 1) * 19 // 20] + 3)


def _pictures(ranking: Ranking, place: Path | None) -> list[tuple[int, str | None]]:
    """The done rows with a picture and its source, in order; if some are folded, those of the leading cells come first.

    Empty if no picture exists: committed results may come without them.
    """
    shown = [position for position, row in ranking.done.items() if row.get("picture")]
    if len(shown) > GALLERY:
        marks = {position: ranking.mark(position, ranking.primary or "") for position in shown}
        shown.sort(key=lambda position: ("best", "tied", "").index(marks[position]))
    linked = place if len(ranking.done) > MANY else None
    places = [None if number < GALLERY else linked for number in range(len(shown))]
    found = [(at, _source(ranking.rows[at], where)) for at, where in zip(shown, places, strict=True)]
    return [] if len(found) > 1 and not any(source for _, source in found) else found


def _source(row: ResultRow, place: Path | None) -> str | None:
    """The PNG of a row as a data URI, or as a link from a page in ``place``; None if it is missing.

    Reads nothing outside the folder, because results may come from elsewhere.
    """
    try:
        inside = Path(str(row.get("folder", "."))).resolve()
        picture = (inside / str(row["picture"])).resolve()
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


def facts(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    found = [(title, _distinct(rows, key)) for title, key in (
        ("Device", "device"), ("Platform", "platform"), ("Precision", "dtype"), ("TF32", "tf32"),
        ("Samples per cell", "samples"), ("Batch size", "batch_size"), ("Seed", "seed"), ("Seeds", "seeds"),
        ("scoresde", "scoresde"), ("Commit", "git"), ("torch", "torch"), ("Python", "python"),
    )]  # fmt: skip
    plugins = {f"{name} {version}" for row in rows for name, version in (row.get("plugins") or {}).items()}
    dates = sorted(str(row["date"]).replace("T", " ")[:16] for row in rows if row.get("date"))
    cells = [as_float(row.get("seconds")) * len(row.get("seeds") or [0]) for row in rows]
    seconds = sum(value for value in cells if value > 0)
    memory = max((value for row in rows if (value := as_float(row.get("peak_memory_bytes"))) > 0), default=0)
    found += [("Plugins", ", ".join(sorted(plugins))), ("Measured", " to ".join(dict.fromkeys(dates[:1] + dates[-1:])))]
    found.append(("Sampling time", f"{plain(seconds, 3)} s in total" if seconds else ""))
    found.append(("Peak memory", f"{plain(memory / 2**20, 3)} MiB" if memory else ""))
    return [(title, value) for title, value in found if value]


def _distinct(rows: Sequence[ResultRow], key: str) -> str:
    known = (row for row in rows if row.get(key) is not None)
    texts = (", ".join(map(str, row[key])) if isinstance(row[key], list) else axis_text(row, key) for row in known)
    values = list(dict.fromkeys(texts))
    return labels.listing(values, 8)
