"""Compares two runs: what became better or worse beyond the noise, what is new or missing, and how speed changed.

Cells are matched by their names and numbers; seeds are pooled first, and versions, devices and dates are ignored.
The change from a value a to b, in standard errors, is

    z = (badness(b) - badness(a)) / sqrt(se_a^2 + se_b^2)

where badness is the value with its sign chosen so that lower is better (|value| if 0 is best). Two runs with the same
seeds share their random numbers, which correlates a and b positively: the true error of the difference is smaller than
this one, so the comparison errs towards "unchanged", and identical code gives z = 0.

The p-value of a change is that of Student's t with Welch's degrees of freedom, because an error from five pieces has
long tails. Of a thousand unchanged values fifty would lie below 0.05, so by default Holm's step-down procedure keeps
the chance of even one false alarm in the whole comparison below 5 % (:mod:`scoresde_run.results.certainty`).
"""

import math
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

import attrs
from scoresde_core import UsageError
from scoresde_run.results.certainty import ALPHA, difference, holm, tail
from .combinations import IDENTITY, identity, is_current, pool
from .labels import ResultRow, as_float, count, is_done, labels, library, plain
from .ranking import MetricValue, metric_value
from .result_sets import ResultSet

EXACT = 1e-6  # relative difference below which two values count as equal
SCHEMA = 1


@attrs.frozen
class Change:
    """One metric of one cell in both runs; ``z`` is positive if it became worse, nan if no error is known."""

    label: str
    cell: str
    metric: str
    before: MetricValue
    after: MetricValue

    @property
    def z(self) -> float:
        """Standard errors by which the value became worse; infinite if it stopped being a number."""
        ends = [math.isfinite(found.value) for found in (self.before, self.after)]
        if not all(ends):
            return math.inf * (ends[0] - ends[1]) if any(ends) else 0.0
        change, noise = self.after.badness - self.before.badness, math.hypot(self.before.stderr, self.after.stderr)
        if abs(change) <= EXACT * abs(self.before.value) or change == 0:
            return 0.0
        return change / noise if noise > 0 else math.copysign(math.inf, change) if noise == 0 else math.nan

    @property
    def p(self) -> float:
        """The p-value of the change."""
        return tail(abs(self.z), difference(self.after.estimate, self.before.estimate).df)

    @property
    def text(self) -> str:
        """``vp 10 steps  nll_gap  3.1 ± 0.6 -> 9.0 ± 0.6 nats  (+7.0 standard errors)``."""
        moved = f"{self.z:+.1f} standard errors" if math.isfinite(self.z) else "no error known"
        return f"{self.label}  {self.metric}  {self.before.text} -> {self.after.text_with_unit}  ({moved})"

    @property
    def data(self) -> dict[str, Any]:
        """The change as plain data for JSON, null for what is not finite."""
        found: dict[str, Any] = {"cell": self.cell, "label": self.label, "metric": self.metric}
        for name, end in (("before", self.before), ("after", self.after)):
            found |= {name: _finite(end.value), f"{name}_stderr": _finite(end.stderr)}
        p = None if math.isnan(self.z) else self.p
        return {**found, "unit": self.after.unit, "standard_errors": _finite(self.z), "p": p}


@attrs.frozen
class Speed:
    """Ratios of samples per second by label, the number of cells that were timed on another device, both in words."""

    ratios: dict[str, float]
    unlike: int
    text: str


class RunComparison:
    """The differences between the runs ``before`` and ``after``.

    A ``threshold`` in standard errors replaces Holm's procedure. Raises UsageError if the two have no cell in common.
    """

    def __init__(self, before: ResultSet, after: ResultSet, threshold: float | None = None) -> None:
        old, new = _cells(before.rows), _cells(after.rows)
        both = [key for key in old if key in new]
        if not both:
            raise UsageError(f"{before.name} and {after.name} have no cell in common: {_why(before.rows, after.rows)}")
        names = _names([old[key] for key in both])
        pairs = [(label, old[key], new[key]) for key, label in zip(both, names, strict=True)]
        ran = [(label, a, b) for label, a, b in pairs if is_done(a) and is_done(b)]
        lost = [f"{label}: {name}" for label, a, b in ran for name in _metrics(a) if name not in _metrics(b)]
        self.before, self.after, self.matched = before.name, after.name, len(both)
        self.changes = [
            Change(label, str(b.get("cell", "")), name, was, now)
            for label, a, b in ran
            for name in _metrics(a)
            if (was := metric_value(a, name)) and (now := metric_value(b, name))
        ]
        judged = [change for change in self.changes if not math.isnan(change.z)]
        if threshold is not None:
            self.rule = f"beyond {plain(threshold)} standard errors of the difference"
            verdicts = [abs(change.z) > threshold for change in judged]
        else:
            many = count(len(judged), "value")
            self.rule = f"Holm's procedure: at most {ALPHA:.0%} chance of any false alarm among {many}"
            verdicts = holm([change.p for change in judged])
        moved = [change for change, beyond in zip(judged, verdicts, strict=True) if beyond]
        moved.sort(key=lambda change: -abs(change.z))
        self.worse, self.better = ([change for change in moved if (change.z > 0) is up] for up in (True, False))
        self.unjudged = [change for change in self.changes if math.isnan(change.z)]
        self.broken = [f"{label}: {_outcome(b)}" for label, a, b in pairs if is_done(a) and not is_done(b)]
        self.fixed = [f"{label}: was {_outcome(a)}" for label, a, b in pairs if is_done(b) and not is_done(a)]
        self.missing, self.new = [*_alone(old, new), *lost], _alone(new, old)
        spent = [(label, as_float(a.get("nfe")), as_float(b.get("nfe"))) for label, a, b in ran]
        texts = [(label, f"{plain(was)} -> {plain(now)}") for label, was, now in spent if abs(was - now) > EXACT]
        self.costs = [f"{label}: {text} function evaluations per sample" for label, text in texts]
        self.speed = _speed(ran)
        ends = dict.fromkeys((library(a), library(b)) for _, a, b in pairs)
        self.libraries = [f"{was} -> {now}" for was, now in ends if was != now]
        told = [(run.name, pair) for run in (before, after) for pair in zip(run.rows, _names(run.rows), strict=True)]
        self.earlier = [f"{label} {row['measured']} of {of}" for of, (row, label) in told if not is_current(row)]

    @property
    def is_worse(self) -> bool:
        """Whether a value is worse or a cell no longer runs."""
        return bool(self.worse or self.broken)

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        counts = {word: len(getattr(self, word)) for word in ("worse", "broken", "better", "fixed")}
        words = [f"{number} {word}" for word, number in counts.items() if number]
        changes = ", ".join(words) or "nothing worse or better beyond the noise"
        held = f"{count(len(self.changes), 'value')} of {count(self.matched, 'cell')}"
        return f"{self.after} against {self.before}: {changes} ({held})"

    @property
    def sections(self) -> list[tuple[str, list[str]]]:
        """Titles with their lines, without empty sections."""
        found = [
            ("worse", [change.text for change in self.worse]),
            ("broken", self.broken),
            ("better", [change.text for change in self.better]),
            ("fixed", self.fixed),
            ("changed, with no known error", [change.text for change in self.unjudged]),
            (f"missing from {self.after}", self.missing),
            (f"new in {self.after}", self.new),
            ("left out", self.earlier),
            ("libraries", self.libraries),
            ("cost", self.costs),
            ("speed", [self.speed.text] if self.speed.text else []),
        ]
        return [(title, lines) for title, lines in found if lines]

    @property
    def data(self) -> dict[str, Any]:
        """The comparison as plain data for JSON."""
        judged = {name: [change.data for change in getattr(self, name)] for name in ("worse", "better", "unjudged")}
        return {
            "schema": SCHEMA, "before": self.before, "after": self.after, "cells": self.matched, "rule": self.rule,
            "is_worse": self.is_worse, **judged, "broken": self.broken, "mended": self.fixed, "missing": self.missing,
            "new": self.new, "costs": self.costs, "speed": self.speed.ratios,
            "values": [change.data for change in self.changes],
        }  # fmt: skip


def _speed(ran: Sequence[tuple[str, ResultRow, ResultRow]]) -> Speed:
    """The ratios of cells (label, before, after) that were timed on the same kind of device in both runs."""
    ratios, unlike, parts = dict[str, float](), 0, []
    for label, *ends in ran:
        old, new = (as_float(row.get("samples_per_second")) for row in ends)
        if 0 < old < math.inf and 0 < new < math.inf:
            alike = ends[0].get("device") == ends[1].get("device")
            ratios |= {label: new / old} if alike else {}
            unlike += not alike
    if ratios:
        many = count(len(ratios), "cell")
        parts.append(f"{geometric_mean(ratios.values()):.2f} times as fast (geometric mean of {many})")
    if len(ratios) > 1:
        slow, fast = (pick(ratios, key=ratios.__getitem__) for pick in (min, max))
        parts.append(f"from {ratios[slow]:.2f} ({slow}) to {ratios[fast]:.2f} ({fast})")
    if unlike:
        parts.append(f"{count(unlike, 'cell')} not compared: measured on different devices")
    return Speed(ratios, unlike, ", ".join(parts))


def _cells(rows: Sequence[ResultRow]) -> dict[tuple[Any, ...], ResultRow]:
    """One row per combination: seeds pooled, or the row of a seed that failed. Repeats are numbered."""
    found: dict[tuple[Any, ...], ResultRow] = {}
    for row in pool([row for row in rows if is_current(row)]):
        key, times = identity(row), 0
        while (*key, times) in found and is_done(row) and is_done(found[(*key, times)]):
            times += 1
        if (*key, times) not in found or not is_done(row):
            found[(*key, times)] = row
    return found


def _metrics(row: ResultRow) -> Mapping[str, Any]:
    return row.get("metrics") or {}


def _names(rows: Sequence[ResultRow]) -> list[str]:
    """Labels made of the axes by which cells are matched."""
    return labels([{axis: row.get(axis) for axis in ("cell", *IDENTITY)} for row in rows])


def _alone(one: dict[tuple[Any, ...], ResultRow], other: dict[tuple[Any, ...], ResultRow]) -> list[str]:
    """Labels of the cells that only ``one`` has."""
    names = _names(list(one.values()))
    return [label for key, label in zip(one, names, strict=True) if key not in other]


def _outcome(row: ResultRow) -> str:
    return f"{row.get('status')}: {' '.join(str(row.get('reason')).split())}"


def _why(old: Sequence[ResultRow], new: Sequence[ResultRow]) -> str:
    """The first axis on which the runs share no value."""
    for axis in IDENTITY:
        values = [{str(row.get(axis)) for row in rows} for rows in (old, new)]
        if all(values) and not values[0] & values[1]:
            return f"{axis} is {', '.join(sorted(values[0]))} in one and {', '.join(sorted(values[1]))} in the other"
    return "no two cells agree in all their names and numbers"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
