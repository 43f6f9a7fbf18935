"""Prints results as a Markdown table: one metric by step count, or the fewest evaluations that suffice for several.

    python docs/pictures/markdown_table.py exact_scores nll_gap
    python docs/pictures/markdown_table.py few_step sliced_wasserstein moments energy_distance mode_weights

With one metric a row is a combination, a column a step count; what is as good as exact samples is bold. With several a
row is a predictor, a column an SDE: the fewest evaluations, on the best grid, as good as exact samples by all of them.
"""

import argparse

from scoresde_bench.report.labels import NOTHING
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.result_sets import merge, read_result_sets

AXES = ("sde", "predictor", "corrector")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("results")
parser.add_argument("metrics", nargs="+")
options = parser.parse_args()
metrics, ranking, table = options.metrics, rank(merge(read_result_sets([options.results]))), {}
done = ranking.done.items()
if len(metrics) == 1:
    columns = {f"{n} steps": "---:|" for n in sorted({row["steps"] for _, row in done})}
    heads = dict.fromkeys(AXES, "---|") | columns
    for position, row in done:
        found = ranking.value(position, *metrics)
        text = f"{found.value:.1f} ± {found.stderr:.1f}"
        cells = table.setdefault(tuple(row[axis] for axis in AXES), dict.fromkeys(columns, ""))
        cells[f"{row['steps']} steps"] = f"**{text}**" if found.as_good else text
else:
    sdes = dict.fromkeys(row["sde"] for _, row in done)
    heads = dict.fromkeys(["predictor", *sdes], "---|")
    good = [row for position, row in done if all(ranking.as_good(position, metric) for metric in metrics)]
    for predictor in dict.fromkeys(row["predictor"] for _, row in done):
        cells = table[(f"`{predictor}`",)] = dict.fromkeys(sdes, NOTHING)
        for sde in sdes:
            those = [row for row in good if (row["predictor"], row["sde"]) == (predictor, sde)]
            if those:
                least = min(row["nfe"] for row in those)
                cells[sde] = f"{least:g} ({', '.join(row['grid'] for row in those if row['nfe'] == least)})"
print(f"| {' | '.join(heads)} |\n|{''.join(heads.values())}")
for names, cells in table.items():
    print(f"| {' | '.join([*names, *cells.values()])} |")
