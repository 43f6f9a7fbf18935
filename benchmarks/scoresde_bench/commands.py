"""``scoresde-bench report`` and ``scoresde-bench compare``, which read stored rows and run no cell.

    scoresde-bench report RUN [RUN ...] [--out page.html]
    scoresde-bench report RUN --format markdown
    scoresde-bench compare BEFORE AFTER

``compare`` exits with 0 if nothing is worse, 1 if something is, 2 if nothing can be compared.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from scoresde_core import FileError, UsageError
from scoresde_run.commands.shell import Parser, add_global_options, open_registry
from .report.compare import RunComparison
from .report.result_sets import ResultSet, merge, read_result_sets

MOST = 25  # lines per section that ``compare`` prints without ``--all``
OURS = {"html": "scoresde-bench", "markdown": "<!-- scoresde-bench report -->", "csv": "cell,status,reason,"}
"""Text at the head of files that this program wrote and may replace."""
KINDS = {".md": "markdown", ".csv": "csv", ".html": "html", ".htm": "html"}
PLACES = "folder of results, file of rows, or name of committed results"


def report(given: Sequence[str]) -> int:
    parser = Parser(
        prog="scoresde-bench report",
        description="Write results as HTML, Markdown or CSV.",
        epilog="example: scoresde-bench report quick --out page.html; more: docs/report.md",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=PLACES)
    parser.add_argument("--format", choices=sorted(OURS), help="default: from the suffix of --out, else html")
    where = "default: html to report.html in the folder of a single run, other formats to stdout"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--metric", metavar="NAME", help="metric shown first (default: the first in the rows)")
    add_global_options(parser)
    arguments = parser.parse_args(given)
    runs = read_result_sets(arguments.runs)
    out = arguments.out
    kind = arguments.format or ("html" if out is None else KINDS.get(out.suffix.lower()))
    if kind is None:
        raise UsageError(f"--out {out} has no known suffix (.html, .md, .csv): add --format")
    if kind == "html" and out is None:
        if len(runs) > 1:
            raise UsageError("a page of several runs has no default place: give one with --out page.html")
        out = runs[0].folder / "report.html"
    if out is not None:
        _check_ours(out, kind)
    meaning = {entry.row.name: entry.row.summary for entry in open_registry(arguments.registry).entries("evaluators")}
    text = _render(runs, kind, arguments.metric, meaning, out)
    if out is None:
        sys.stdout.write(text)
        return 0
    from .report.page import write_text

    print(write_text(text, out))
    return 0


def compare_runs(given: Sequence[str]) -> int:
    parser = Parser(
        prog="scoresde-bench compare",
        description="List what became better or worse beyond the noise. Runs that share seeds are correlated, "
        "which makes the verdicts conservative.",
        epilog="Exit code: 0 if nothing is worse, 1 if something is, 2 if nothing can be compared; "
        "example: scoresde-bench compare before after; more: docs/report.md",
    )
    parser.add_argument("before", metavar="BEFORE", help=PLACES)
    parser.add_argument("after", metavar="AFTER", help=PLACES)
    usual = "Holm's procedure, at most 5 %% chance of any false alarm in the whole comparison"
    text = f"count changes of more than Z standard errors (default: {usual})"
    parser.add_argument("--threshold", type=float, metavar="Z", help=text)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--all", action="store_true", help=f"print all lines, not just {MOST} per section")
    add_global_options(parser)
    arguments = parser.parse_args(given)
    if arguments.threshold is not None and not arguments.threshold >= 0:
        raise UsageError(f"--threshold must be at least 0, got {arguments.threshold}")
    before, after = read_result_sets([arguments.before, arguments.after])
    found = RunComparison(before, after, arguments.threshold)
    print(json.dumps(found.data, indent=1, allow_nan=False) if arguments.json else _text(found, arguments.all))
    return 1 if found.is_worse else 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"report": report, "compare": compare_runs}
"""Commands by the first word of the command line."""


def _text(found: RunComparison, complete: bool) -> str:
    lines = [found.headline, f"beyond the noise: {found.rule}"]
    for title, entries in found.sections:
        shown = entries if complete else entries[:MOST]
        lines += ["", f"{title}:", *(f"  {entry}" for entry in shown)]
        if len(shown) < len(entries):
            lines.append(f"  and {len(entries) - len(shown)} more (--all shows them)")
    return "\n".join(lines)


def _check_ours(out: Path, kind: str) -> None:
    """Refuse to overwrite a file that this program did not write."""
    if not out.exists():
        return
    try:
        head = out.read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError as error:
        raise FileError(f"cannot write {out}: {error.strerror or error}") from error
    if head and OURS[kind] not in head:
        raise UsageError(f"{out} exists and is not a {kind} report: remove it or choose another --out")


def _render(runs: Sequence[ResultSet], kind: str, metric: str | None, meaning: dict[str, str], out: Path | None) -> str:
    from .report.export import as_csv, as_markdown
    from .report.page import facts, page
    from .report.ranking import rank

    comparisons = []
    for run in runs[1:]:
        with suppress(UsageError):  # nothing in common with the first: the page only merges them
            comparisons.append(RunComparison(runs[0], run))
    ranking = rank(merge(runs), metric)
    if kind == "csv":
        return as_csv(ranking)
    if kind == "markdown":
        return as_markdown(runs, ranking, facts(ranking.rows), comparisons)
    return page(runs, ranking, meaning, comparisons, out and out.parent)
