"""Checks whether the standard error of every evaluator equals the scatter of its value over repeated draws.

    python tests/long/calibration.py [--repetitions 200] [--samples 200] [--evaluator X ...]

Each repetition draws new samples and a new reference: samples of the target itself, and of another law, whose score
the model has. A cell is the root mean square of the reported errors over the standard deviation of the values: 1 is
right, below 1 means false findings, above 1 missed ones. The last lines pair the repetitions as two runs, which differ
only by chance, and count what ``scoresde-bench compare`` calls worse or better.
"""

import argparse
import math
import sys
from pathlib import Path

import attrs
import torch
from scoresde_bench.report.compare import RunComparison as compare
from scoresde_bench.report.result_sets import ResultSet
from scoresde_core import ExactScore, create, default_registry
from scoresde_plugins.extractors.identity import Identity
from scoresde_run.data.evidence import Evidence, Observed, Reference
from scoresde_run.features.extraction import Features

sys.path.insert(0, str(Path(__file__).parents[1]))

from exact_posterior import law_of

LAWS = {
    "gaussian[shape=[2]]": "gaussian[shape=[2],mean=0.7,std=1.2]",
    "mixture2d": "mixture2d[imbalance=4]",
    "gaussian[shape=[12],decay=1]": "gaussian[shape=[12],decay=1,mean=0.3]",
    "gaussian[shape=[1,11,11],decay=2]": "gaussian[shape=[1,11,11],decay=2,mean=0.3]",
}
"""Targets, and the laws of shifted samples."""
KINDS = ("exact", "shifted")
CHEAP = {
    "log_likelihood": {"samples": 20, "rtol": 1e-3},
    "likelihood_bound": {"samples": 20, "times": 100},
    "frechet": {"draws": 2000},
}
"""Parameters that reduce the time."""
EACH = 20
"""Samples of an observation."""
FRESH = {"memorisation": {"data": "exact[target={law},count=300,test_count=400,seed={r}]"}}
"""Parameters that change with the repetition, as a new reference does."""
SILENT = 1e-9
"""Scatter, relative to the value or to 1, that counts as rounding."""


@attrs.frozen
class Answers(Identity):
    """Uses the entries of an event as features and as logits of a classifier."""

    def load(self, device):
        """Return the extractor."""
        return lambda x: Features(x.float().flatten(1), x.float().flatten(1))


@attrs.define(eq=False)
class WithoutFloor(Reference):
    """A reference with one set, without a floor, which would take time."""

    @property
    def sets(self):
        """Number of sets."""
        return 1


def example(name):
    """Parameters of an evaluator, with features that need no network."""
    if name == "inception_score":
        return {"features": Answers()}
    return getattr(default_registry().load("evaluators", name), "example", {})


def given(judge, other, target, n, r):
    """Samples of ``other`` and what they are given: nothing, or observations of ``target``."""
    if "observed" not in judge.needs:
        return other.sample(n, seed=100_000 + r), {}
    events = target.sample(n // EACH, seed=200_000 + r)
    known = create("conditions", "linear[operator=mask,noise=0.3]", seed=r).observe(events.double())
    laws = (law_of(other.as_mixture(), known, k) for k in range(len(events)))
    drawn = torch.cat([law.sample(EACH, seed=1_000 * r + k) for k, law in enumerate(laws)])
    return drawn, {"observed": Observed(events, known)}


def repeat(name, law, kind, repetitions, n):
    """Return the metrics (repetitions, metrics) of an evaluator; empty if it is skipped."""
    target = create("targets", law)
    other = target if kind == "exact" else create("targets", LAWS[law])
    sde, sampler = create("sdes", "vp"), create("samplers", "pc[steps=3]")
    found = []
    for r in range(repetitions):
        fresh = {key: text.format(law=law, r=r) for key, text in FRESH.get(name, {}).items()}
        judge = create("evaluators", name, **{**example(name), **CHEAP.get(name, {}), **fresh})
        samples, more = given(judge, other, target, n, r)
        evidence = Evidence(
            samples, reference=WithoutFloor(target, n, seed=r), sampler=sampler, model=ExactScore(other, sde), **more
        )
        if judge.skip(evidence):
            return []
        found.append(judge.evaluate(evidence))
    return found


def ratios(found):
    """Return reported error over scatter by metric; None if there is only rounding."""
    result = {}
    for metrics in zip(*found, strict=True):
        values, errors = torch.tensor([[m.value, m.stderr] for m in metrics], dtype=torch.float64).T
        scatter, size = float(values.std()), max(1.0, float(values.abs().max()))
        result[metrics[0].name] = float(errors.square().mean().sqrt()) / scatter if scatter > SILENT * size else None
    return result


def false_alarms(cells):
    """Return the share of pairs of repetitions with an alarm, their number, the share of p < 0.05, and its number.

    ``cells`` has the metrics (repetitions, metrics) by (law, kind).
    """
    count = min(map(len, cells.values()))
    runs = [
        ResultSet(str(r), Path(), [
            {"cell": f"{law} {kind}", "target": law, "sde": kind, "status": "done", "seed": r,
             "metrics": {metric.name: metric.plain() for metric in found[r]}}
            for (law, kind), found in cells.items()
        ])
        for r in range(count)
    ]  # fmt: skip
    compared = [compare(a, b) for a, b in zip(runs[::2], runs[1::2], strict=False)]
    p_values = [change.p for each in compared for change in each.changes if change.z and not math.isnan(change.z)]
    alarms = sum(bool(each.worse or each.better) for each in compared)
    return alarms / len(compared), len(compared), sum(p < 0.05 for p in p_values) / len(p_values), len(p_values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--evaluator", nargs="+", help="default: all")
    arguments = parser.parse_args()
    names = arguments.evaluator or [entry.row.name for entry in default_registry().entries("evaluators")]
    columns = [(law, kind) for law in LAWS for kind in KINDS]
    cells, table = {}, {}
    for name in names:
        for law, kind in columns:
            found = repeat(name, law, kind, arguments.repetitions, arguments.samples)
            for metric, ratio in ratios(found).items():
                table.setdefault(metric, {})[law, kind] = "no noise" if ratio is None else f"{ratio:.2f}"
            rows = cells.setdefault((law, kind), [[] for _ in range(arguments.repetitions)])
            for row, metrics in zip(rows, found, strict=False):
                row += metrics
    print("| | " + " | ".join(f"`{law}` {kind}" for law, kind in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for metric, found in table.items():
        print(f"| `{metric}` | " + " | ".join(found.get(column, "-") for column in columns) + " |")
    any_alarm, pairs, each, values = false_alarms(cells)
    print(f"\n{any_alarm:.1%} of {pairs} comparisons of two runs have a false alarm;", end=" ")
    print(f"{each:.1%} of {values} single values have p < 0.05")


if __name__ == "__main__":
    main()
