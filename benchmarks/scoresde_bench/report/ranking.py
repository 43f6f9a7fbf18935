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

Values are compared within one target only, because metrics of different targets have no common scale. Several seeds of
one combination are one row, with the standard error across them (:mod:`.seeds`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from scoresde_core.errors import near_misses
from scoresde_core.estimate import Estimate
from scoresde_run.results.certainty import ALPHA, difference, holm, p_below, p_nonzero, quantile

from .labels import ResultRow, as_float, count, freedom_of, is_done, labels, listing, plain, quantity
from .seeds import pool

MARGIN = 5.0
"""Margin for "as good as exact samples", in standard errors of their score."""


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
        return _half(self.stderr, self.df)

    @property
    def floor_bar(self) -> float:
        """Half of the 95 % confidence interval of the floor."""
        return _half(self.floor_stderr, self.floor_df)

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
    """Return the metric of a row, or None if the row is not done or lacks it."""
    entry: dict[str, Any] | None = (row.get("metrics") or {}).get(metric) if is_done(row) else None
    if not entry:
        return None
    numbers = {name: as_float(entry.get(name)) for name in ("value", "stderr", "floor", "floor_stderr")}
    freedom = {name: freedom_of(entry, name, metric) for name in ("df", "floor_df")}
    return MetricValue(**numbers, **freedom, unit=entry.get("unit") or "", better=entry.get("better") or "lower")


@attrs.frozen
class Standing:
    """The result for one metric on one target: the best row, those tied with it, those as good as exact samples.

    Rows are given by their position among the ranked rows. ``best`` is None and ``label`` empty if no value is finite.
    ``label`` names the best row among the rows of its target, without the target.
    """

    metric: str
    target: str | None
    best: int | None
    label: str
    tied: tuple[int, ...]
    as_good: tuple[int, ...]
    subject: str
    verdict: str

    @property
    def sentence(self) -> str:
        """The result: ``nll_gap: best is vp 200 steps (3.1 ± 0.6 nats); within its noise: subvp 200 steps``."""
        return f"{self.subject}: {self.verdict}"


@attrs.frozen
class Unfinished:
    """Cells that failed or were skipped for the same reason."""

    status: str
    reason: str
    labels: list[str]


@attrs.frozen
class Ranking:
    """Ranked rows, their labels, and a standing for each metric and target, the primary metric first."""

    rows: list[ResultRow]
    labels: list[str]
    metrics: list[str]
    standings: list[Standing]

    @property
    def primary(self) -> str | None:
        """The metric of the headline."""
        return self.metrics[0] if self.metrics else None

    @property
    def done(self) -> dict[int, ResultRow]:
        """The done rows, by position."""
        return {position: row for position, row in enumerate(self.rows) if is_done(row)}

    @property
    def targets(self) -> list[str | None]:
        """The targets of the done rows, in order of appearance."""
        return list(dict.fromkeys(row.get("target") for row in self.done.values()))

    @property
    def sentences(self) -> list[str]:
        """One sentence per metric and target."""
        return [standing.sentence for standing in self.standings] or [self.headline]

    @property
    def headline(self) -> str:
        """The result by the primary metric, in one sentence without numbers."""
        won = [s for s in self.standings if s.metric == self.primary]
        clauses = [_clause(standing) for standing in won if standing.best is not None]
        if clauses:
            return f"Best by {self.primary}: {listing(clauses)}"
        if not self.done:
            return "No cell is done"
        return f"{count(len(self.done), 'cell')} done, none with a finite value to rank by"

    @property
    def unjudged(self) -> list[str]:
        """Why metrics are missing from done cells, one sentence per metric and reason."""
        reasons = [
            f"{metric} was skipped: {' '.join(str(reason).split())}"
            for row in self.done.values()
            for metric, reason in (row.get("metrics_skipped") or {}).items()
        ]
        return [f"{reason} [{count(times, 'cell')}]" for reason, times in Counter(reasons).items()]

    @property
    def unfinished(self) -> list[Unfinished]:
        """The cells that are not done, by reason, failed ones first; rows neither done nor skipped count as failed."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for row, label in zip(self.rows, self.labels, strict=True):
            if not is_done(row):
                status = "skipped" if row.get("status") == "skip" else "failed"
                grouped.setdefault((status, str(row.get("reason") or "no reason was recorded")), []).append(label)
        return [Unfinished(*key, grouped[key]) for key in sorted(grouped, key=lambda key: key[0])]

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
        those = (position for position, row in self.done.items() if not target or row.get("target") in target)
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
    Raises ValueError if no done row has ``metric``.
    """
    rows = pool(rows)
    names = labels(rows)
    known = list(dict.fromkeys(name for row in rows if is_done(row) for name in row.get("metrics") or {}))
    if metric is not None and known and metric not in known:
        raise ValueError(f"no done cell has the metric {metric!r}.{near_misses(metric, known)}")
    metrics = sorted(known, key=lambda name: name != metric)
    ranking = Ranking(list(rows), names, metrics, [])
    standings = [_standing(ranking, name, target) for name in metrics for target in ranking.targets]
    return attrs.evolve(ranking, standings=[standing for standing in standings if standing])


def _standing(ranking: Ranking, metric: str, target: str | None) -> Standing | None:
    """Compare the rows of ``target`` by ``metric``; None if none of them has it."""
    positions = [position for position, row in enumerate(ranking.rows) if row.get("target") == target]
    names = dict(zip(positions, labels([ranking.rows[position] for position in positions]), strict=True))
    measured = ranking.measured(metric, target)
    finite = {position: found for position, found in measured.items() if math.isfinite(found.value)}
    subject = f"{metric} on {target}" if len(ranking.targets) > 1 else metric
    if not finite:
        verdict = f"none of {count(len(measured), 'cell')} has a finite value"
        return Standing(metric, target, None, "", (), (), subject, verdict) if measured else None
    best = min(finite, key=lambda position: finite[position].badness)
    others = [position for position in finite if position != best]
    apart = holm([p_nonzero(difference(finite[p].estimate, finite[best].estimate)) for p in others])
    tied = tuple(position for position, differs in zip(others, apart, strict=True) if not differs)
    as_good = tuple(position for position, found in finite.items() if found.as_good)
    verdict = _verdict(names, finite, best, tied, as_good)
    return Standing(metric, target, best, names[best], tied, as_good, subject, verdict)


def _verdict(
    names: Mapping[int, str], found: Mapping[int, MetricValue], best: int, tied: Sequence[int], as_good: Sequence[int]
) -> str:
    """The result in words: ``best is ... (3.1 ± 0.6 nats); within its noise: ...; exact samples score ...``."""
    won = found[best]
    parts = [f"best is {names[best]} ({won.text_with_unit})"]
    if tied:
        parts.append(f"within its noise: {listing([names[p] for p in tied])}")
    if as_good:
        largest = plain(max(found[position].margin for position in as_good), 2)
        exact = f"as good as exact samples of this size (worse by less than {largest}{_unit(won)})"
        everyone = set(as_good) == {best, *tied}
        named = f": {listing([names[position] for position in as_good])}" if not everyone else ""
        parts.append(f"{'all ' * (everyone and bool(tied))}{exact}{named}")
    elif won.floor_text:
        parts.append(f"exact samples of this size score {won.floor_text}")
        if won.excess.known and p_nonzero(won.excess) > ALPHA:
            resolution = plain(quantile(ALPHA, won.excess.df) * won.excess.stderr, 2)  # the smallest significant excess
            parts.append(f"not told apart from them (resolution {resolution}{_unit(won)})")
    return "; ".join(parts)


def _unit(found: MetricValue) -> str:
    return f" {found.unit}" if found.unit else ""


def _clause(standing: Standing) -> str:
    """Part of the headline: ``vp 200 steps on mnist_mfa (2 others within its noise)``."""
    place = f" on {standing.target}" if standing.target else ""
    others = f" ({count(len(standing.tied), 'other')} within its noise)" if standing.tied else ""
    return standing.label + place + others


def _half(stderr: float, df: float) -> float:
    return quantile(ALPHA, df) * stderr if math.isfinite(stderr) and df > 0 else 0.0
