"""Exports rows as Markdown and CSV: the numbers of the page without its pictures.

Markdown has rounded values, the best in bold, ``~`` within its noise. CSV has full precision, one row per cell (also
skipped and failed ones), four columns per metric, and the command that repeats the cell.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from . import labels, published, repeat
from .compare import RunComparison
from .labels import AXES, axis_text
from .ranking import Ranking
from .result_sets import ResultSet
from .verdicts import verdicts

PARTS = ("value", "stderr", "floor", "floor_stderr")
COSTS = ("nfe", "products", "seconds", "samples_per_second", "peak_memory_bytes")
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
MARKUP = re.compile(r"[|`\\]|~(?=~)|(?<=\])[(\[:]")
ENDS, FACTS = ("cell", "status", "reason"), ("scoresde", "torch", "python", "git", "date")


def templates(escape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("scoresde_bench"), autoescape=escape,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def as_csv(ranking: Ranking) -> str:
    axes = [axis for axis in AXES if axis not in FACTS and any(row.get(axis) is not None for row in ranking.rows)]
    printed, out = published.metrics(ranking.rows), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metrics = [f"{metric}_{part}".removesuffix("_value") for metric in ranking.metrics for part in PARTS]
    theirs = [f"published_{name}" for name in [*printed, *["source"] * bool(printed)]]
    writer.writerow(map(_csv, [*ENDS, *axes, *COSTS, *metrics, *theirs, *FACTS, "command"]))
    for row in ranking.rows:
        known = row.get("metrics") or {}
        values = [(known.get(metric) or {}).get(part) for metric in ranking.metrics for part in PARTS]
        values += [published.value(row, name)[0] for name in printed]
        values += [(row.get("published") or {}).get("source")] * bool(printed)
        pooled = {"seed": axis_text(row, "seed"), "seeds": " ".join(map(str, row.get("seeds") or []))}
        before, facts = ([pooled.get(key, row.get(key)) for key in keys] for keys in ([*ENDS, *axes, *COSTS], FACTS))
        writer.writerow(map(_csv, [*before, *values, *facts, repeat.command(row)]))
    return out.getvalue()


def as_markdown(
    runs: Sequence[ResultSet], ranking: Ranking, facts: Iterable[tuple[str, str]], compared: Sequence[RunComparison]
) -> str:
    environment = templates(escape=False)
    environment.filters |= {"plain": _plain, "command": repeat.command}
    # A fence of a block of code is longer than what its commands could close it with.
    environment.filters["fence"] = lambda texts: (
        "`" * max(3, 1 + max(map(len, re.findall("`+", " ".join(texts))), default=0))
    )
    template = environment.get_template("report.md.j2")
    known = {"runs": runs, "ranking": ranking, "facts": facts, "compared": compared, "verdicts": verdicts(ranking)}
    return template.render(**known, labels=labels, published=published).rstrip("\n") + "\n"


def _csv(item: Any) -> Any:
    """A number as it is; text that a spreadsheet would take for a formula with a quote before it."""
    if isinstance(item, str):
        text = item.replace("\r\n", "\n").replace("\r", "\n")  # the writer quotes no lone \\r
        return f"'{text}" if item.startswith(FORMULAS) else text
    return "" if item is None or item != item else item


def _plain(text: str) -> str:
    """Escape text so that it breaks no table and opens no tag, link, image or fence."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")
