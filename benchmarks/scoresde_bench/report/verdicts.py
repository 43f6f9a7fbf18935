"""What a sampler's errors over its step counts say of it: the order, and its faults by name.

The cells of a line differ in the number of steps N alone. Its errors are the excess over exact samples
(:func:`.plot.error`), and its order is the power with which they fall (:func:`.plot.power`).

    wrong law     at the largest N the error is beyond its noise, has not fallen by a tenth since half as many steps, is
                  ten times that of the best sampler of the target, and a hundredth of that at the smallest N
    lost order    the order is more than 0.3 and two standard errors below the one that the sampler claims
    rounding      the error at the largest N is three times the least one at fewer steps, and a hundredth of that at the
                  smallest
    evaluations   a cell took more than its sampler says, by its number in a step
    crash         a cell failed

Errors below 3e-4 of the largest on the target are those of single precision, and not fitted. What else is no power has
no order, and no fault for it.
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import attrs
from . import labels
from .labels import AXES, ResultRow, as_float, name, quantity, varying
from .plot import error, power, resolved
from .ranking import MetricValue, Ranking

FALL, NEARER, LOST, RISE, SEEN, SINGLE = 0.9, 10.0, 0.3, 3.0, 0.01, 3e-4
"""The thresholds above, in their order."""
Errors = Mapping[float, MetricValue]
"""The errors of a line by the number of steps."""


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
        """``lost order: azula[sampler=REAB] of azula 0.11.1 on mixture2d: order 0.63 of 2, moments ...``."""
        order = f"order {self.order_text} of {self.claim:g}, " if self.order and self.claim else ""
        last = f"{self.metric} {self.error.text_with_unit} at {self.steps:g} steps"
        return f"{', '.join(self.faults)}: {self.line} of {self.library} on {self.target}: {order}{last}"

    @property
    def order_text(self) -> str:
        """The order with its error, or an empty string."""
        return quantity(*self.order) if self.order else ""


def verdicts(ranking: Ranking) -> list[Verdict]:
    """The verdicts on lines with three step counts or more, by the order of the rows; none if no sampler claims one."""
    lines, found = _lines(ranking), []
    for target, metric in product(ranking.targets, ranking.metrics):
        known = {line: _errors(ranking, rows, target, metric) for line, rows in lines.items()}
        known = {line: errors for line, errors in known.items() if len(errors) > 2}
        best = min((errors[max(errors)].value for errors in known.values()), default=0.0)
        worst = max((value.value for errors in known.values() for value in errors.values()), default=0.0)
        for line, errors in known.items():
            rows = [row for row in lines[line].values() if row.get("target") == target]
            found.append(_verdict(line, errors, rows, str(target), metric, (best, worst)))
    return found if any(verdict.claim for verdict in found) else []


def _lines(ranking: Ranking) -> dict[str, dict[int, ResultRow]]:
    axes = [axis for axis in AXES if axis in varying(ranking.rows) and axis not in ("target", "steps", "seed", "seeds")]
    found: dict[str, dict[int, ResultRow]] = {}
    for position, row in enumerate(ranking.rows):
        found.setdefault(name(row, axes), {})[position] = row
    return found


def _errors(ranking: Ranking, rows: Mapping[int, ResultRow], target: str | None, metric: str) -> Errors:
    found = {position: ranking.value(position, metric) for position, row in rows.items() if row.get("target") == target}
    steps = {position: as_float(rows[position].get("steps")) for position in found}
    return {
        steps[p]: error(value) for p, value in found.items() if value and steps[p] > 0 and math.isfinite(value.value)
    }


def _verdict(
    line: str, errors: Errors, rows: list[ResultRow], target: str, metric: str, ends: tuple[float, float]
) -> Verdict:
    few, most, (best, worst) = min(errors), max(errors), ends
    clear = [(steps, value) for steps, value in errors.items() if resolved(value) and value.value > SINGLE * worst]
    order = power(clear) if len(clear) > 2 else None
    sampler: Mapping[str, Any] = next((s for row in rows if (s := (row.get("parameters") or {}).get("sampler"))), {})
    claim, often, library = sampler.get("claims"), sampler.get("evaluations"), labels.library(next(iter(rows), {}))
    last, least = errors[most], min(value.value for value in errors.values())
    before = min((value.value for steps, value in errors.items() if steps <= most / 2), default=math.inf)
    stays = FALL * before < last.value <= RISE * least
    faults = {
        "wrong law": resolved(last) and stays and last.value > max(NEARER * best, SEEN * errors[few].value),
        "lost order": bool(order and claim and order[0] < claim - max(LOST, 2 * order[1])),
        "rounding": last.value > max(RISE * least, RISE * last.bar, SEEN * errors[few].value),
        "evaluations": any(often and as_float(row.get("nfe")) > often * as_float(row.get("steps")) for row in rows),
        "crash": any(row.get("status") == "failed" for row in rows),
    }
    return Verdict(
        line, library, target, metric, most, last, order, claim, tuple(name for name in faults if faults[name])
    )
