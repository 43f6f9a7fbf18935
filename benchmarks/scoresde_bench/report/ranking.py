"""Ranks cells by each metric: the best cell, those not told apart from it, those as good as exact samples.

    apart        the difference to the best cell is significant: Student's t with Welch's degrees of freedom, with 5 %
                 for all cells of one metric and target together by Holm's procedure; other cells are tied with the best
    as good as   the 95 % upper confidence limit of the difference to exact samples of the same size is below a margin,
                 for each cell by itself. The margin is MARGIN standard errors of the score of exact samples, so it
                 shrinks with more samples; it is stated with the result
    neither      not told apart from exact samples; the smallest difference that would have been is stated

The cells of a run share their exact samples, which correlates them positively, so the true error of a difference is
smaller: the rules err towards calling cells equal. The best of many is partly the luckiest; the cells tied with it
belong to the answer.

Values are compared within one target and condition only, because metrics of others have no common scale. Several seeds
of one combination are one row, with the standard error across them (:mod:`.combinations`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from scoresde_core import Estimate, UsageError, near_misses
from scoresde_run.results.certainty import ALPHA, difference, holm, p_below, p_nonzero, quantile
from .combinations import pool
from .labels import ResultRow, as_float, count, freedom_of, is_done, labels, listing, plain, quantity, truth

MARGIN = 5.0  # margin for "as good as exact samples", in standard errors of their score


@attrs.frozen
class MetricValue:
    """One metric of one row, with its error and its floor (the score of exact samples); nan for what is missing."""

    value: float
    stderr: float
    floor: float
    floor_stderr: float
    unit: str
    better: str
    df: float = math.inf
    floor_df: float = math.inf

    @property
    def estimate(self) -> Estimate:
        """The badness with its error."""
        return Estimate(self.badness, self.stderr, self.df)

    @property
    def bar(self) -> float:
        """Half of the 95 % confidence interval; 0 if the error is unknown."""
        return half_interval(self.stderr, self.df)

    @property
    def excess(self) -> Estimate:
        """How much worse the value is than the floor; for a metric best at 0, the distance to the floor."""
        floor = Estimate(self.floor, self.floor_stderr, self.floor_df)
        found = difference(Estimate(self.value, self.stderr, self.df), floor)
        return attrs.evolve(found, value=self._turned(found.value))

    @property
    def margin(self) -> float:
        """The excess below which a value is as good as exact samples."""
        return MARGIN * self.floor_stderr

    @property
    def as_good(self) -> bool:
        """Whether the value is as good as exact samples, with 95 % confidence; without random errors, if not worse."""
        if self.excess.stderr == 0 and self.margin == 0:
            return self.excess.value <= 0
        return p_below(self.excess, self.margin) < ALPHA

    @property
    def badness(self) -> float:
        """The value with its sign chosen so that lower is better."""
        return self._turned(self.value)

    def _turned(self, value: float) -> float:
        return {"higher": -value, "zero": abs(value)}.get(self.better, value)

    @property
    def text(self) -> str:
        """The value and its error: ``3.1 ± 0.6``."""
        return quantity(self.value, self.stderr)

    @property
    def text_with_unit(self) -> str:
        """The value, error and unit: ``3.1 ± 0.6 nats``; no unit if the value is not finite."""
        return f"{self.text} {self.unit}" if self.unit and math.isfinite(self.value) else self.text

    @property
    def floor_text(self) -> str:
        """The floor and its error, or an empty string."""
        return "" if math.isnan(self.floor) else quantity(self.floor, self.floor_stderr)


def metric_value(row: ResultRow, metric: str) -> MetricValue | None:
    entry: dict[str, Any] | None = (row.get("metrics") or {}).get(metric) if is_done(row) else None
    if not entry:
        return None
    numbers = {name: as_float(entry.get(name)) for name in ("value", "stderr", "floor", "floor_stderr")}
    freedom = {name: freedom_of(entry, name) for name in ("df", "floor_df")}
    return MetricValue(**numbers, **freedom, unit=entry.get("unit") or "", better=entry.get("better") or "lower")


class Standing:
    """The result for one metric on one target: the best row, those tied with it, those as good as exact samples.

    Rows are given by their position among the ranked rows. ``best`` is None and ``label`` empty if no value is finite.
    ``label`` names the best row among the rows of its target, without the target.
    """

    def __init__(self, ranking: "Ranking", metric: str, target: str | None) -> None:
        positions = [position for position, row in enumerate(ranking.rows) if truth(row) == target]
        names = dict(zip(positions, labels([ranking.rows[position] for position in positions]), strict=True))
        measured = ranking.measured(metric, target)
        found = {position: each for position, each in measured.items() if math.isfinite(each.value)}
        self.metric, self.target = metric, target
        self.subject = f"{metric} on {target}" if len(ranking.targets) > 1 else metric
        self.verdict = f"none of {count(len(measured), 'cell')} has a finite value"
        self.best = best = min(found, key=lambda position: found[position].badness, default=None)
        self.label, self.tied = "", tuple[int, ...]()
        self.as_good = tuple(position for position, each in found.items() if each.as_good)
        if best is not None:
            others = {position: each for position, each in found.items() if position != best}
            apart = holm([p_nonzero(difference(each.estimate, found[best].estimate)) for each in others.values()])
            self.tied = tuple(position for position, differs in zip(others, apart, strict=True) if not differs)
            self.label, self.verdict = names[best], self._verdict(names, found, best)

    def _verdict(self, names: Mapping[int, str], found: Mapping[int, MetricValue], best: int) -> str:
        """The result in words: ``best is ... (3.1 ± 0.6 nats); within its noise: ...; exact samples score ...``."""
        won = found[best]
        unit = f" {won.unit}" if won.unit else ""
        parts = [f"best is {names[best]} ({won.text_with_unit})"]
        if self.tied:
            parts.append(f"within its noise: {listing([names[p] for p in self.tied])}")
        if self.as_good:
            largest = plain(max(found[position].margin for position in self.as_good), 2)
            exact = f"as good as exact samples of this size (worse by less than {largest}{unit})"
            everyone = set(self.as_good) == {best, *self.tied}
            named = f": {listing([names[position] for position in self.as_good])}" if not everyone else ""
            parts.append(f"{'all ' * (everyone and bool(self.tied))}{exact}{named}")
        elif won.floor_text:
            parts.append(f"exact samples of this size score {won.floor_text}")
            if won.excess.known and p_nonzero(won.excess) > ALPHA:
                smallest = quantile(ALPHA, won.excess.df) * won.excess.stderr  # significant excess
                parts.append(f"not told apart from them (resolution {plain(smallest, 2)}{unit})")
        return "; ".join(parts)

    @property
    def clause(self) -> str:
        """Its part of the headline: ``vp 200 steps on mnist_mfa (2 others within its noise)``."""
        place = f" on {self.target}" if self.target else ""
        return self.label + place + (f" ({count(len(self.tied), 'other')} within its noise)" if self.tied else "")


class Ranking:
    """Ranked rows, their labels, and a standing for each metric and target, the primary metric first."""

    def __init__(self, rows: Sequence[ResultRow], metric: str | None) -> None:
        self.rows, self.labels = list(rows), labels(rows)
        self.done = {position: row for position, row in enumerate(rows) if is_done(row)}
        self.targets = list(dict.fromkeys(truth(row) for row in self.done.values()))
        known = list(dict.fromkeys(name for row in self.done.values() for name in row.get("metrics") or {}))
        if metric is not None and known and metric not in known:
            raise UsageError(f"no done cell has the metric {metric!r}.{near_misses(metric, known)}")
        self.metrics = sorted(known, key=lambda name: name != metric)
        self.primary = self.metrics[0] if self.metrics else None
        pairs = [(name, target) for name in self.metrics for target in self.targets]
        self.standings = [Standing(self, *pair) for pair in pairs if self.measured(*pair)]

    @property
    def sentences(self) -> list[str]:
        """One sentence per metric and target."""
        return [f"{standing.subject}: {standing.verdict}" for standing in self.standings] or [self.headline]

    @property
    def headline(self) -> str:
        """The result by the primary metric, in one sentence without numbers."""
        won = [standing for standing in self.standings if standing.metric == self.primary]
        clauses = [standing.clause for standing in won if standing.best is not None]
        if clauses:
            return f"Best by {self.primary}: {listing(clauses, 3 if len(clauses) <= 3 else 1)}"
        if not self.done:
            return "No cell is done"
        return f"{count(len(self.done), 'cell')} done, none with a finite value to rank by"

    @property
    def unjudged(self) -> list[str]:
        """Why metrics are missing from done cells, one sentence per metric and reason."""
        missed = [item for row in self.done.values() for item in (row.get("metrics_skipped") or {}).items()]
        reasons = [f"{metric} was skipped: {' '.join(str(reason).split())}" for metric, reason in missed]
        return [f"{reason} [{count(times, 'cell')}]" for reason, times in Counter(reasons).items()]

    @property
    def unfinished(self) -> dict[tuple[str, str], list[str]]:
        """The cells that are not done, by their status and reason, failed ones first, as is what is not skipped."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for row, label in zip(self.rows, self.labels, strict=True):
            if not is_done(row):
                status = "skipped" if row.get("status") == "skip" else "failed"
                grouped.setdefault((status, str(row.get("reason") or "no reason was recorded")), []).append(label)
        return {key: grouped[key] for key in sorted(grouped, key=lambda key: key[0])}

    def mark(self, position: int, metric: str) -> str:
        """Return ``best``, ``tied`` or an empty string for one value."""
        for standing in self.standings:
            if standing.metric == metric and position in (standing.best, *standing.tied):
                return "best" if position == standing.best else "tied"
        return ""

    def as_good(self, position: int, metric: str) -> bool:
        """Return whether one value is as good as exact samples."""
        return any(standing.metric == metric and position in standing.as_good for standing in self.standings)

    def value(self, position: int, metric: str) -> MetricValue | None:
        """Return one value, or None."""
        return metric_value(self.rows[position], metric)

    def measured(self, metric: str, *target: str | None) -> dict[int, MetricValue]:
        """Return the values of a metric by position, those of one ``target`` if it is given."""
        those = (position for position, row in self.done.items() if not target or truth(row) in target)
        return {position: found for position in those if (found := self.value(position, metric))}

    def about(self, metric: str) -> tuple[str, str, list[str]]:
        """Return the unit of a metric, which values are better, and the different scores of exact samples."""
        found = [*self.measured(metric).values()]
        floors = dict.fromkeys(each.floor_text for each in found if each.floor_text)
        return *next(((each.unit, each.better) for each in found), ("", "lower")), [*floors]

    def heading(self, metric: str, unit: str = "{} ({})") -> str:
        """Return the metric with its unit."""
        known = self.about(metric)[0]
        return unit.format(metric, known) if known else metric


def rank(rows: Sequence[ResultRow], metric: str | None = None) -> Ranking:
    """Rank the done rows by every metric, ``metric`` first (default: the first metric of the first done row).

    Seeds are pooled first, so ``ranking.rows`` may be fewer than ``rows``.
    Raises UsageError if no done row has ``metric``.
    """
    return Ranking(pool(rows), metric)


def half_interval(stderr: float, df: float) -> float:
    return quantile(ALPHA, df) * stderr if math.isfinite(stderr) and df > 0 else 0.0
