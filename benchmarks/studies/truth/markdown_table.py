"""Prints one metric of a results file as a Markdown table: a row per combination, a column per step count.

python benchmarks/studies/truth/markdown_table.py benchmarks/results/exact_scores/results.jsonl nll_gap
"""

import argparse
import json
from pathlib import Path

from scoresde_bench.report.ranking import metric_value

AXES = ("sde", "predictor", "corrector")


def cell(found):
    """``value ± stderr``, bold if as good as exact samples."""
    text = f"{found.value:.1f} ± {found.stderr:.1f}"
    return f"**{text}**" if found.as_good else text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("metric")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    table: dict = {}
    for row in rows:
        if row["status"] == "done":
            table.setdefault(tuple(row[axis] for axis in AXES), {})[row["steps"]] = metric_value(row, arguments.metric)
    steps = sorted({n for found in table.values() for n in found})
    print("| " + " | ".join([*AXES, *(f"{n} steps" for n in steps)]) + " |")
    print("|" + "---|" * len(AXES) + "---:|" * len(steps))
    for names, found in table.items():
        print("| " + " | ".join([*names, *(cell(found[n]) if n in found else "" for n in steps)]) + " |")


if __name__ == "__main__":
    main()
