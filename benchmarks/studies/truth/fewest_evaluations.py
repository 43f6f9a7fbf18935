"""Prints the fewest evaluations at which a predictor, on its best grid, is as good as exact samples by every metric.

python benchmarks/studies/truth/fewest_evaluations.py few_step sliced_wasserstein moments energy_distance mode_weights
"""

import argparse

from scoresde_bench.report.labels import NOTHING, is_done
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.result_sets import merge, read_result_sets


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("metrics", nargs="+")
    arguments = parser.parse_args()
    ranking = rank(merge(read_result_sets([arguments.results])))
    rows = [row for row in ranking.rows if is_done(row)]
    found: dict = {}
    for position, row in enumerate(ranking.rows):
        if all(ranking.as_good(position, metric) for metric in arguments.metrics):
            found.setdefault((row["predictor"], row["sde"]), []).append((row["nfe"], row["grid"]))
    sdes = list(dict.fromkeys(row["sde"] for row in rows))
    print("| predictor | " + " | ".join(sdes) + " |")
    print("|---|" + "---|" * len(sdes))
    for predictor in dict.fromkeys(row["predictor"] for row in rows):
        cells = []
        for sde in sdes:
            good = found.get((predictor, sde), [])
            least = min((nfe for nfe, _ in good), default=None)
            grids = ", ".join(grid for nfe, grid in good if nfe == least)
            cells.append(f"{least:g} ({grids})" if good else NOTHING)
        print(f"| `{predictor}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
