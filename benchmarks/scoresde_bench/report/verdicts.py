"""What a sampler's errors over its step counts say of it: the order, and its faults by name.

The cells of a line differ in the number of steps N alone. Its errors are the excess over exact samples
(:func:`.plot.error`), and its order is the power with which the last three fall (:func:`.plot.power`).

    wrong law     at the largest N the error is beyond its noise, has neither fallen by a tenth nor risen by half since
                  half as many steps, is ten times that of the best sampler under the same process and unlike those of
                  two others, and a hundredth of that at the smallest N
    lost order    the order is more than 0.3 and two standard errors below the one that the sampler claims, by the first
                  metric that shows one, on every target: one where it holds the claim shows that others need more steps
    rising error  an error is three times one at fewer steps, and twice what the claimed order allows from the smallest
                  N: one that passes through zero rises less
    evaluations   a cell took more than its sampler says, by its number in a step
    crash         a cell failed

Not fitted, and no fault, are errors near those of single precision and of the ends of a process, which no sampler falls
below: a thousandth of the usual one at the smallest N (the median), or three times the third of the same library at the
largest N. What else is no power has no order, and no fault for it.
"""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from statistics import median
from typing import Any

import attrs
from . import labels
from .labels import ResultRow, as_float, name, quantity, varying
from .plot import error, power, resolved
from .ranking import MetricValue, Ranking

FALL, STAY, NEARER, SAME, LOST, RISE, TWICE, SEEN, SINGLE = 0.9, 1.5, 10.0, 0.02, 0.3, 3.0, 2.0, 0.01, 1e-3
"""The thresholds above, in their order."""
Errors = Mapping[float, MetricValue]  # by the number of steps


@attrs.frozen
class Verdict:
    """One sampler on one target by one metric; ``order`` has its standard error, ``steps`` is the largest number."""

    line: str
    library: str
    target: str
    metric: str
    steps: float
    error: MetricValue
    order: tuple[float, float] | None
    claim: float | None
    faults: tuple[str, ...]

    @property
    def text(self) -> str:
        """``lost order: azula[sampler=REAB] of azula 0.11.1 on mixture2d: order 0.63, claimed 2, ...``."""
        order = f"order {self.order_text}, claimed {self.claim:g}, " if self.order and self.claim else ""
        last = f"{self.metric} {self.error.text_with_unit} at {self.steps:g} steps"
        return f"{', '.join(self.faults)}: {self.line} of {self.library} on {self.target}: {order}{last}"

    @property
    def order_text(self) -> str:
        """The order with its error, or an empty string."""
        return quantity(*self.order) if self.order else ""


def verdicts(ranking: Ranking) -> list[Verdict]:
    """The verdicts on lines with three step counts or more, by the order of the rows; none if no sampler claims one."""
    if not any(_sampler(row).get("claims") for row in ranking.rows):
        return []
    axes = [axis for axis in varying(ranking.rows) if axis not in ("target", "condition", "steps", "seed", "seeds")]
    lines, found = defaultdict[str, dict[int, ResultRow]](dict), list[Verdict]()
    for position, row in enumerate(ranking.rows):
        lines[name(row, axes)][position] = row
    for metric, target in product(ranking.metrics, ranking.targets):
        known = {line: _errors(ranking, rows, target, metric) for line, rows in lines.items()}
        known = {line: errors for line, errors in known.items() if len(errors) > 2}
        rows = {line: [row for row in lines[line].values() if labels.truth(row) == target] for line in known}
        of = {line: (str(first.get("sde")), labels.library(first)) for line, (first, *_) in rows.items()}
        ends: dict[tuple[str, ...], list[float]] = defaultdict(list)  # under a process, and of a library under it
        for line, errors in known.items():
            for group in (of[line][:1], of[line]):
                insort(ends[group], errors[max(errors)].value)
        usual = median(errors[min(errors)].value for errors in known.values()) if known else 0.0
        for line, errors in known.items():
            own, same, kin = errors[max(errors)].value, ends[of[line][:1]], ends[of[line]]
            shared = own > 0 and sum(abs(value / own - 1) < SAME for value in same) > 2
            floor = max(SINGLE * usual, RISE * kin[2] if len(kin) > 2 else 0.0)
            found.append(_verdict(line, errors, rows[line], metric, own if shared else same[0], floor))
    return _agreed(found)


def _agreed(found: list[Verdict]) -> list[Verdict]:
    """The verdicts, where an order is lost only by the first metric that shows one, and on all targets."""
    first = {one.line: one.metric for one in reversed(found) if one.order}
    judged = [one for one in found if one.metric == first.get(one.line)]
    held = {one.line for one in judged if one.order and one.claim and one.order[0] >= one.claim - LOST}
    for at, one in enumerate(found):
        if one.line in held or one not in judged:
            found[at] = attrs.evolve(one, faults=tuple(fault for fault in one.faults if fault != "lost order"))
    return found


def _sampler(row: ResultRow) -> Mapping[str, Any]:
    return (row.get("parameters") or {}).get("sampler") or {}


def _errors(ranking: Ranking, rows: Mapping[int, ResultRow], target: str | None, metric: str) -> Errors:
    found = {position: ranking.value(position, metric) for position, row in rows.items() if labels.truth(row) == target}
    steps = {position: as_float(rows[position].get("steps")) for position in found}
    return {steps[p]: error(v) for p, v in found.items() if v and steps[p] > 0 and math.isfinite(v.value)}


def _verdict(line: str, errors: Errors, rows: list[ResultRow], metric: str, best: float, floor: float) -> Verdict:
    few, most = min(errors), max(errors)
    clear = [(n, value) for n, value in sorted(errors.items()) if resolved(value) and value.value > floor][-3:]
    order = power(clear) if len(clear) > 2 else None
    claim, often = (_sampler(rows[0]).get(name) for name in ("claims", "evaluations"))
    last, seen = errors[most], max(floor, SEEN * errors[few].value)
    before = [value.value for steps, value in sorted(errors.items()) if steps <= most / 2] or [math.inf]
    stays = FALL * min(before) < last.value <= STAY * before[-1]
    allowed = {steps: TWICE * errors[few].value * (few / steps) ** (claim or 1) for steps in errors}
    least = {steps: min(errors[n].value for n in errors if n <= steps) for steps in errors}
    rises = [e.value > max(RISE * least[n], RISE * e.bar, allowed[n], seen) for n, e in errors.items()]
    faults = {
        "wrong law": resolved(last) and stays and last.value > max(NEARER * best, seen),
        "lost order": bool(order and claim and order[0] < claim - max(LOST, 2 * order[1])),
        "rising error": any(rises),
        "evaluations": any(often and as_float(row.get("nfe")) > often * as_float(row.get("steps")) for row in rows),
        "crash": any(row.get("status") == "failed" for row in rows),
    }
    about = line, labels.library(rows[0]), str(labels.truth(rows[0])), metric
    return Verdict(*about, most, last, order, claim, tuple(name for name in faults if faults[name]))
