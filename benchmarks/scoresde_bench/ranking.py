"""The ranking: which cell is best, by each metric, and which cells cannot be told apart from it.

Cell b is within the noise of the best cell a when |a - b| <= 2 sqrt(se_a^2 + se_b^2), about 95 % for two independent
measurements. The cells of a run share their exact samples, which correlates them positively, so the true error of a
difference is smaller: the rule errs towards calling cells equal. The best of many is also partly the luckiest of
many; the cells within its noise are the honest answer.

Values are compared within one target only: the metrics of two targets have no common scale. Several seeds of one
combination are one row, with the standard error across them (:mod:`.seeds`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from scoresde_core.errors import near_misses

from .labels import Row, as_float, count, is_done, labels, listing, quantity
from .seeds import pool

SIGMAS = 2.0
"""How many standard errors of a difference count as noise."""


@attrs.frozen
class Measurement:
    """One metric of one row; what is missing is nan."""

    value: float
    stderr: float
    floor: float
    floor_stderr: float
    unit: str
    better: str

    @property
    def badness(self) -> float:
        """The value turned so that lower is better."""
        return {"higher": -self.value, "zero": abs(self.value)}.get(self.better, self.value)

    @property
    def text(self) -> str:
        """``3.1 ± 0.6``."""
        return quantity(self.value, self.stderr)

    @property
    def text_with_unit(self) -> str:
        """``3.1 ± 0.6 nats``; what is not a number has no unit."""
        return f"{self.text} {self.unit}" if self.unit and math.isfinite(self.value) else self.text

    @property
    def floor_text(self) -> str:
        """What exact samples score, or nothing."""
        return "" if math.isnan(self.floor) else quantity(self.floor, self.floor_stderr)

    def ties(self, best: Measurement) -> bool:
        """Whether the difference to ``best`` is within the noise."""
        return self.badness - best.badness <= _noise(self.stderr, best.stderr)

    @property
    def at_floor(self) -> bool:
        """Whether exact samples of this size score no better, within the noise."""
        if not (math.isfinite(self.value) and math.isfinite(self.floor)):
            return False
        difference = self.value - self.floor
        signed = {"higher": -difference, "zero": abs(difference)}.get(self.better, difference)
        return signed <= _noise(self.stderr, self.floor_stderr)


def measurement(row: Row, metric: str) -> Measurement | None:
    """The metric of a row, or None where the row is not done or was not judged by it."""
    entry: dict[str, Any] | None = (row.get("metrics") or {}).get(metric) if is_done(row) else None
    if not entry:
        return None
    return Measurement(
        value=as_float(entry.get("value")),
        stderr=as_float(entry.get("stderr")),
        floor=as_float(entry.get("floor")),
        floor_stderr=as_float(entry.get("floor_stderr")),
        unit=entry.get("unit") or "",
        better=entry.get("better") or "lower",
    )


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Every metric of the done rows, in order of appearance."""
    return list(dict.fromkeys(name for row in rows if is_done(row) for name in row.get("metrics") or {}))


@attrs.frozen
class Standing:
    """One metric on one target: the best row, those within its noise, and those as good as exact samples.

    Rows are given by their position among the ranked rows. ``best`` is None, and ``label`` empty, where no value is
    finite. ``label`` names the best row among those of its target, so it does not name the target.
    """

    metric: str
    target: str | None
    best: int | None
    label: str
    tied: tuple[int, ...]
    at_floor: tuple[int, ...]
    subject: str
    verdict: str

    @property
    def sentence(self) -> str:
        """``nll_gap: best is vp 200 steps (3.1 ± 0.6 nats); within the noise of it: subvp 200 steps``."""
        return f"{self.subject}: {self.verdict}"


@attrs.frozen
class Ranking:
    """The rows, their labels, and a standing for each metric and target, the primary metric's first."""

    rows: list[Row]
    labels: list[str]
    metrics: list[str]
    standings: list[Standing]

    @property
    def primary(self) -> str | None:
        """The metric that decides the headline."""
        return self.metrics[0] if self.metrics else None

    @property
    def targets(self) -> list[str | None]:
        """The targets of the done rows, in order of appearance."""
        return list(dict.fromkeys(row.get("target") for row in self.rows if is_done(row)))

    @property
    def sentences(self) -> list[str]:
        """What there is to say, one sentence a metric (and target, where there are several)."""
        return [standing.sentence for standing in self.standings] or [self.headline]

    @property
    def headline(self) -> str:
        """The outcome by the primary metric, in one sentence without numbers."""
        won = [s for s in self.standings if s.metric == self.primary]
        clauses = [_clause(standing) for standing in won if standing.best is not None]
        if clauses:
            return f"Best by {self.primary}: {listing(clauses)}"
        done = sum(map(is_done, self.rows))
        if not done:
            return "No cell ran to its end"
        return f"{count(done, 'cell')} done, none with a finite value to rank by"

    @property
    def unjudged(self) -> list[str]:
        """Which metrics did not judge cells that ran, and why, a sentence for each metric and reason."""
        reasons = [
            f"{metric} did not judge: {' '.join(str(reason).split())}"
            for row in self.rows
            if is_done(row)
            for metric, reason in (row.get("metrics_skipped") or {}).items()
        ]
        return [f"{reason} [{count(times, 'cell')}]" for reason, times in Counter(reasons).items()]

    def mark(self, position: int, metric: str) -> str:
        """``best``, ``tied`` or nothing, for one value of the table."""
        for standing in self.standings:
            if standing.metric == metric and position == standing.best:
                return "best"
            if standing.metric == metric and position in standing.tied:
                return "tied"
        return ""

    def measurement(self, position: int, metric: str) -> Measurement | None:
        """One value of the table."""
        return measurement(self.rows[position], metric)


def rank(rows: Sequence[Row], metric: str | None = None) -> Ranking:
    """Ranks the done rows by every metric; ``metric`` leads (default: the first one of the first done row).

    Seeds are pooled first, so ``ranking.rows`` may be fewer than ``rows``.
    Raises ValueError for a ``metric`` that no done row has, naming those there are.
    """
    rows = pool(rows)
    names, known = labels(rows), metric_names(rows)
    if metric is not None and known and metric not in known:
        raise ValueError(f"no finished cell was judged by {metric!r}.{near_misses(metric, known)}")
    metrics = sorted(known, key=lambda name: name != metric)
    ranking = Ranking(list(rows), names, metrics, [])
    standings = [_standing(ranking, name, target) for name in metrics for target in ranking.targets]
    return attrs.evolve(ranking, standings=[standing for standing in standings if standing])


def _standing(ranking: Ranking, metric: str, target: str | None) -> Standing | None:
    """How the rows of ``target`` compare by ``metric``; None where none of them was judged by it."""
    positions = [position for position, row in enumerate(ranking.rows) if row.get("target") == target]
    names = dict(zip(positions, labels([ranking.rows[position] for position in positions]), strict=True))
    measured = {position: found for position in positions if (found := ranking.measurement(position, metric))}
    finite = {position: found for position, found in measured.items() if math.isfinite(found.value)}
    subject = f"{metric} on {target}" if len(ranking.targets) > 1 else metric
    if not finite:
        verdict = f"none of {count(len(measured), 'cell')} has a finite value"
        return Standing(metric, target, None, "", (), (), subject, verdict) if measured else None
    best = min(finite, key=lambda position: finite[position].badness)
    tied = tuple(p for p, found in finite.items() if p != best and found.ties(finite[best]))
    at_floor = tuple(p for p, found in finite.items() if found.at_floor)
    verdict = _verdict(names, finite[best], best, tied, at_floor)
    return Standing(metric, target, best, names[best], tied, at_floor, subject, verdict)


def _verdict(
    names: Mapping[int, str], won: Measurement, best: int, tied: Sequence[int], at_floor: Sequence[int]
) -> str:
    """``best is ... (3.1 ± 0.6 nats); within the noise of it: ...; exact samples of this size score ...``."""
    parts = [f"best is {names[best]} ({won.text_with_unit})"]
    if tied:
        parts.append(f"within the noise of it: {listing([names[p] for p in tied])}")
    if set(at_floor) == {best, *tied}:
        parts.append(f"{'all ' * bool(tied)}as good as exact samples of this size")
    elif at_floor:
        parts.append(f"as good as exact samples of this size: {listing([names[p] for p in at_floor])}")
    elif won.floor_text:
        parts.append(f"exact samples of this size score {won.floor_text}")
    return "; ".join(parts)


def _clause(standing: Standing) -> str:
    """``vp 200 steps on mnist_mfa (2 others within its noise)``."""
    place = f" on {standing.target}" if standing.target else ""
    return (
        standing.label + place + (f" ({count(len(standing.tied), 'other')} within its noise)" if standing.tied else "")
    )


def _noise(*stderrs: float) -> float:
    """What counts as noise between values with these errors; an error that is not known adds nothing."""
    return SIGMAS * math.hypot(*(stderr for stderr in stderrs if math.isfinite(stderr)))
