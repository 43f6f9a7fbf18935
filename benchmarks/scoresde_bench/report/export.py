"""Exports rows as Markdown and CSV: the numbers of the page without its pictures.

Markdown has rounded values, the best in bold, ``~`` within its noise. CSV has full precision, one row per cell (also
skipped and failed ones), four columns per metric, and the command that repeats the cell.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from . import published
from .compare import RunComparison
from .labels import AXES, NOTHING, TITLES, ResultRow, axis_text, columns, is_done, number_text
from .ranking import Ranking
from .repeat import command
from .result_sets import ResultSet

PARTS = ("value", "stderr", "floor", "floor_stderr")
COSTS = ("nfe", "seconds", "samples_per_second", "peak_memory_bytes")
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
MARKUP = re.compile(r"[|`\\]|~(?=~)|(?<=\])[(\[:]")
FACTS = ("scoresde", "torch", "python", "git", "date")


def as_csv(ranking: Ranking) -> str:
    """Return every row of the ranking as CSV."""
    rows = ranking.rows
    axes = [axis for axis in AXES if axis not in FACTS and any(row.get(axis) is not None for row in rows)]
    printed = published.metrics(rows)
    ends = ("cell", "status", "reason")
    metrics = [f"{metric}_{part}" if part != "value" else metric for metric in ranking.metrics for part in PARTS]
    source = ["published_source"] * bool(printed)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [*ends, *axes, *COSTS, *metrics, *(f"published_{name}" for name in printed), *source, *FACTS, "command"]
    writer.writerow(map(_csv, heads))
    for row in rows:
        known = row.get("metrics") or {}
        values = [(known.get(metric) or {}).get(part) for metric in ranking.metrics for part in PARTS]
        values += [published.value(row, name) for name in printed]
        values += [(row.get("published") or {}).get("source")] * bool(printed)
        names, numbers, facts = ([row.get(key) for key in keys] for keys in (ends, COSTS, FACTS))
        line = [*names, *(_cell(row, axis) for axis in axes), *numbers, *values, *facts, command(row)]
        writer.writerow(map(_csv, line))
    return out.getvalue()


LEGEND = "Value ± standard error; bold: best; ~: not told apart from it; °: as good as exact samples."


def as_markdown(
    runs: Sequence[ResultSet], ranking: Ranking, facts: Iterable[tuple[str, str]], compared: Sequence[RunComparison]
) -> str:
    """Return findings, values, unfinished cells, changes, environment and commands as Markdown."""
    lines = ["<!-- scoresde-bench report -->", f"# {_plain(ranking.headline)}", ""]
    lines += [f"- **{_plain(found.subject)}**: {_plain(found.verdict)}" for found in ranking.standings]
    if ranking.done:
        lines += ["", *_table(ranking), "", LEGEND]
    for comparison in compared:
        lines += ["", f"## {_plain(comparison.headline)}", "", f"Beyond the noise: {comparison.rule}."]
        for title, entries in comparison.sections:
            lines += ["", f"{_plain(title)}:", "", *(f"- {_plain(entry)}" for entry in entries)]
    undone = [(row, label) for row, label in zip(ranking.rows, ranking.labels, strict=True) if not is_done(row)]
    if undone:
        lines += ["", "## What did not run", ""]
        lines += [f"- {_plain(label)}: {row.get('status')}: {_plain(str(row.get('reason')))}" for row, label in undone]
    lines += ["", "## Environment", "", *(f"- {title}: {_plain(value)}" for title, value in facts)]
    lines += ["", "## Commands", ""]
    for run in runs:
        lines += _block(run.commands)
    if ranking.done:
        lines += ["Commands of single cells:", "", *_block([command(row) for row in ranking.done.values()])]
    return "\n".join(lines)


def _block(commands: Sequence[str]) -> list[str]:
    """A block of code, with a fence that no command closes."""
    fence = "`" * max(3, 1 + max((len(run) for text in commands for run in re.findall("`+", text)), default=0))
    return [fence, *commands, fence, ""] if commands else []


def _table(ranking: Ranking) -> list[str]:
    axes, printed = columns([*ranking.done.values()]), published.metrics([*ranking.done.values()])
    heads = [TITLES.get(axis, axis) for axis in axes] + ["NFE", *map(ranking.heading, ranking.metrics)]
    heads += [f"published {metric}" for metric in printed] + ["samples/s"]
    lines = [heads]
    for position, row in ranking.done.items():
        cells = [axis_text(row, axis) for axis in axes] + [number_text(row, "nfe")]
        cells += [_value(ranking, position, metric) for metric in ranking.metrics]
        cells += [published.text(row, metric) or NOTHING for metric in printed]
        lines.append([*cells, number_text(row, "samples_per_second", 3)])
    table = ["| " + " | ".join(map(_plain, line)) + " |" for line in lines]
    return [table[0], "|" + "---|" * len(axes) + "---:|" * (len(heads) - len(axes)), *table[1:]]


def _value(ranking: Ranking, position: int, metric: str) -> str:
    found, mark = ranking.value(position, metric), ranking.mark(position, metric)
    if not found:
        return NOTHING
    text = f"**{found.text}**" if mark == "best" else found.text
    marks = ("~" if mark == "tied" else "") + ("°" if ranking.as_good(position, metric) else "")
    return f"{text} {marks}" if marks else text


def _cell(row: ResultRow, axis: str) -> Any:
    """The value of an axis in CSV; the seeds of a pooled row are text."""
    if axis == "seeds" and row.get("seeds"):
        return " ".join(map(str, row["seeds"]))
    return axis_text(row, axis) if axis == "seed" else row.get(axis)


def _csv(item: Any) -> Any:
    """A number as it is; text that a spreadsheet would take for a formula with a quote before it."""
    if isinstance(item, str):
        text = item.replace("\r\n", "\n").replace("\r", "\n")  # the writer quotes no lone \\r
        return f"'{text}" if item.startswith(FORMULAS) else text
    return "" if item is None or item != item else item


def _plain(text: str) -> str:
    """Escape text so that it breaks no table and opens no tag, link, image or fence."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")
