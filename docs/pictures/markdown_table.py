"""Prints results as a Markdown table: one metric by step count, or the fewest evaluations that suffice for several.

    python docs/pictures/markdown_table.py exact_scores nll_gap
    python docs/pictures/markdown_table.py few_step sliced_wasserstein moments energy_distance mode_weights

With one metric a row is a combination, a column a step count; what is as good as exact samples is bold. With several a
row is a predictor, a column an SDE: the fewest evaluations, on the best grid, as good as exact samples by all of them.
"""

import argparse

from scoresde_bench.report.labels import NOTHING, is_done
from scoresde_bench.report.ranking import metric_value, rank
from scoresde_bench.report.result_sets import merge, read_result_sets

AXES = ("sde", "predictor", "corrector")


def by_steps(rows, metric):
    """A line for each combination: ``value ± stderr`` at each step count."""
    table = {}
    for row in filter(is_done, rows):
        found = metric_value(row, metric)
        text = f"{found.value:.1f} ± {found.stderr:.1f}"
        place = table.setdefault(tuple(row[axis] for axis in AXES), {})
        place[row["steps"]] = f"**{text}**" if found.as_good else text
    steps = sorted({n for found in table.values() for n in found})
    yield [*AXES, *(f"{n} steps" for n in steps)], "---|" * len(AXES) + "---:|" * len(steps)
    for names, found in table.items():
        yield [*names, *(found.get(n, "") for n in steps)], ""


def fewest(rows, metrics):
    """A line for each predictor: the fewest evaluations that suffice, and the grids, at each SDE."""
    ranking, found = rank(rows), {}
    for position, row in enumerate(ranking.rows):
        if all(ranking.as_good(position, metric) for metric in metrics):
            found.setdefault((row["predictor"], row["sde"]), []).append((row["nfe"], row["grid"]))
    done = list(ranking.done.values())
    sdes = list(dict.fromkeys(row["sde"] for row in done))
    yield ["predictor", *sdes], "---|" * (1 + len(sdes))
    for predictor in dict.fromkeys(row["predictor"] for row in done):
        cells = []
        for good in (found.get((predictor, sde)) for sde in sdes):
            least = min(good)[0] if good else None
            cells.append(f"{least:g} ({', '.join(grid for nfe, grid in good if nfe == least)})" if good else NOTHING)
        yield [f"`{predictor}`", *cells], ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("metrics", nargs="+")
    arguments = parser.parse_args()
    rows = merge(read_result_sets([arguments.results]))
    lines = by_steps(rows, *arguments.metrics) if len(arguments.metrics) == 1 else fewest(rows, arguments.metrics)
    for cells, rule in lines:
        print("| " + " | ".join(cells) + " |" + (f"\n|{rule}" if rule else ""))


if __name__ == "__main__":
    main()
