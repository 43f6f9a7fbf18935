"""The HTML report: one file that needs no network, no script and no other file.

What it says, in this order: what is best and what cannot be told apart from it, quality against cost, the samples
themselves, every number, what did not run and why, how to read it, where it was measured and how to repeat it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined

from scoresde_core.errors import FileError

from . import plot
from .labels import NOTHING, TITLES, Row, as_float, axis_text, columns, count, is_done, plain
from .ranking import Ranking, rank

DIRECTIONS = {"lower": "Lower is better.", "higher": "Higher is better.", "zero": "Nearest to 0 is best."}
PNG = b"\x89PNG\r\n\x1a\n"
GALLERY = 24
"""How many pictures are shown at once; the rest unfold on request."""


@attrs.frozen
class Picture:
    """Samples of one cell, embedded."""

    cell: str
    label: str
    caption: str
    data: str | None
    mark: str


def write_report(rows: Sequence[Row], path: str | Path, command: str, meaning: Mapping[str, str] | None = None) -> Path:
    """Writes the report of ``rows`` to ``path``, which it returns; ``command`` is what reproduces them.

    Pictures are read from ``row["picture"]``, relative to the folder of ``path``; one that is missing, is no PNG or
    lies outside that folder is named as missing. ``meaning`` says what further metrics measure, by name.
    Raises FileError when ``path`` cannot be written.
    """
    path = Path(path)
    ranking = rank(rows)
    pictures = _pictures(ranking, path.parent)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            ranking=ranking,
            plots=plot.plots(ranking),
            lines=list(dict.fromkeys(plot.legend(ranking).values())),
            frame=plot,
            pictures=pictures[:GALLERY],
            further_pictures=pictures[GALLERY:],
            headings=[(TITLES.get(axis, axis), _kind(axis)) for axis in _columns(ranking)],
            table=list(_table(ranking)),
            unfinished=list(_unfinished(ranking)),
            metrics=list(_metrics(ranking, meaning or {})),
            tally=_tally(ranking),
            environment=_facts(ranking.rows),
            command=command,
        )
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot write the report {path}: {error.strerror or error}") from error
    return path


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


def _columns(ranking: Ranking) -> list[str]:
    return columns([row for row in ranking.rows if is_done(row)])


def _table(ranking: Ranking) -> Iterable[dict[str, Any]]:
    """The done rows: what names them, what they cost, and every metric with its mark."""
    axes = _columns(ranking)
    widths = {metric: _stderr_width(ranking, metric) for metric in ranking.metrics}
    for position, row in enumerate(ranking.rows):
        if is_done(row):
            yield {
                "cell": str(row.get("cell", "")),
                "axes": [(axis_text(row, axis), _kind(axis)) for axis in axes],
                "nfe": _number(row, "nfe"),
                "speed": _number(row, "samples_per_second", 3),
                "values": [_value(ranking, position, metric, widths[metric]) for metric in ranking.metrics],
            }


def _value(ranking: Ranking, position: int, metric: str, width: int) -> dict[str, Any] | None:
    """A measurement, parted at its ``±`` so that the signs of a column stand below each other."""
    found = ranking.measurement(position, metric)
    if found is None:
        return None
    value, _, stderr = found.text.partition(" ± ")
    mark = ranking.mark(position, metric)
    return {"value": value, "stderr": stderr, "width": width, "mark": mark, "floor": found.at_floor}


def _stderr_width(ranking: Ranking, metric: str) -> int:
    """Characters that the longest error of a column takes, with its sign."""
    texts = [found.text for p in range(len(ranking.rows)) if (found := ranking.measurement(p, metric))]
    return max(len(text.partition(" ± ")[2]) for text in texts) + 3


def _kind(axis: str) -> str:
    """Whether a column holds numbers, which align right."""
    return "number" if axis in ("steps", "seed", "samples", "batch_size") else "name"


def _pictures(ranking: Ranking, folder: Path) -> list[Picture]:
    """The pictures of the done rows, in their order; where some fold away, the leading cells come first."""
    found = []
    for position, row in enumerate(ranking.rows):
        if not is_done(row) or not row.get("picture"):
            continue
        primary = ranking.primary or ""
        measured = ranking.measurement(position, primary)
        caption = f"{primary} {measured.text_with_unit}" if measured else ""
        data = _embedded(folder, str(row["picture"]))
        mark = ranking.mark(position, primary)
        found.append(Picture(str(row.get("cell", "")), ranking.labels[position], caption, data, mark))
    if len(found) > GALLERY:
        found.sort(key=lambda picture: ("best", "tied", "").index(picture.mark))
    return found


def _embedded(folder: Path, relative: str) -> str | None:
    """The PNG as a data URI. A results file may come from elsewhere: nothing outside its folder is read."""
    try:
        inside = folder.resolve()
        picture = (inside / relative).resolve()
        content = picture.read_bytes() if picture.is_relative_to(inside) else b""
    except (OSError, ValueError):
        return None
    return "data:image/png;base64," + base64.b64encode(content).decode() if content.startswith(PNG) else None


def _unfinished(ranking: Ranking) -> Iterable[dict[str, Any]]:
    """Failed and skipped cells by reason, failures first."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for row, label in zip(ranking.rows, ranking.labels, strict=True):
        if not is_done(row):
            status = "skipped" if row.get("status") == "skip" else "failed"
            grouped.setdefault((status, str(row.get("reason") or "no reason was recorded")), []).append(label)
    for (status, reason), names in sorted(grouped.items(), key=lambda item: item[0][0]):
        yield {"status": status, "reason": reason, "names": names}


def _metrics(ranking: Ranking, meaning: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """How to read each metric: what it measures, where its good end is, and what exact samples score."""
    for metric in ranking.metrics:
        found = [m for p in range(len(ranking.rows)) if (m := ranking.measurement(p, metric))]
        floors = list(dict.fromkeys(m.floor_text for m in found if m.floor_text))
        unit = f" {found[0].unit}" if found[0].unit else ""
        score = f"Exact samples of this size score {floors[0]}{unit}." if len(floors) == 1 else ""
        yield {
            "name": metric,
            "unit": found[0].unit,
            "meaning": meaning.get(metric, ""),
            "direction": DIRECTIONS.get(found[0].better, DIRECTIONS["lower"]),
            "floor": score,
        }


def _tally(ranking: Ranking) -> list[str]:
    """``12 cells done``, ``2 skipped``, ``1 failed``."""
    statuses = [row.get("status") if row.get("status") in ("done", "skip") else "failed" for row in ranking.rows]
    words = [f"{count(statuses.count('done'), 'cell')} done"]
    words += [
        f"{statuses.count(key)} {word}" for key, word in (("skip", "skipped"), ("failed", "failed")) if key in statuses
    ]
    return words


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Where and with what the cells were measured; several values where they differ."""
    facts = [(title, _distinct(rows, key)) for title, key in (
        ("Device", "device"), ("Precision", "dtype"), ("TF32", "tf32"), ("Samples a cell", "samples"),
        ("Batch size", "batch_size"), ("Seed", "seed"), ("torch", "torch"), ("scoresde", "scoresde"), ("Commit", "git"),
    )]  # fmt: skip
    plugins = {f"{name} {version}" for row in rows for name, version in (row.get("plugins") or {}).items()}
    facts.append(("Plugins", ", ".join(sorted(plugins))))
    dates = sorted(str(row["date"]).replace("T", " ")[:16] for row in rows if row.get("date"))
    facts.append(("Measured", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""))
    seconds = [value for row in rows if (value := as_float(row.get("seconds"))) > 0]
    facts.append(("Sampling time", f"{plain(sum(seconds), 3)} s in all" if seconds else ""))
    memory = [value for row in rows if (value := as_float(row.get("peak_memory_bytes"))) > 0]
    facts.append(("Peak memory", f"{plain(max(memory) / 2**20, 3)} MiB" if memory else ""))
    return [(title, value) for title, value in facts if value]


def _distinct(rows: Sequence[Row], key: str) -> str:
    values = list(dict.fromkeys(axis_text(row, key) for row in rows if row.get(key) is not None))
    return ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def _number(row: Row, key: str, digits: int = 4) -> str:
    value = as_float(row.get(key))
    return plain(value, digits) if value == value else NOTHING
