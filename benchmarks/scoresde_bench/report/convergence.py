"""Convergence plots: error against the number of steps, on logarithmic axes, with fitted powers.

The error of a cell is the excess of its metric over exact samples: value - floor if lower is better, floor - value if
higher is better, and |value| if 0 is best. It is resolved if it exceeds half the 95 % interval of that difference;
unresolved points are drawn hollow and not fitted. The resolved errors e of one line at three or more step counts N are
fitted by weighted least squares to

    log e = a - p log N,     weights 1 / ((se / e)^2 + 0.05^2),

where 0.05 allows for deviations from a power. A power holds from some number of steps on: while the points differ from
a line by more than their errors, the smallest step count is left out. p is shown with its standard error if the line
explains 97 % of the variance of log e and the values do not change sign. If no three points follow a power to within
their errors, the largest set of which a line explains so much is fitted, and the standard error is scaled by the
scatter about the line.
p is the order of this metric's error, not the strong order of the method: near its floor a distance, in which noise
and error add in squares, exceeds the floor by the square of the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np

from scoresde_core.estimate import Estimate
from scoresde_run.results.certainty import spread

from .labels import as_float, quantity
from .lines import CROWD, Layout, Line
from .plot import Cost, Frame, Plot, Point, Series
from .ranking import MetricValue, Ranking
from .scales import HUGE, TINY, Across, Up

STEPS = Cost("steps", "steps", lambda row: as_float(row.get("steps")))
FEWEST = 3
"""Step counts with resolved errors that a fit needs."""
MODEL = 0.05
"""Relative deviation from a power that is allowed."""
NOISE = "noise"
"""The mark of a point within its noise."""
EXPLAINED = 0.97
"""Share of the variance of log e that a power must explain to be shown."""


@attrs.frozen
class Slope:
    """The exponent of one line: error ~ steps^-power."""

    line: Line
    text: str


def error(found: MetricValue) -> MetricValue:
    """The excess of a value over exact samples, as a value for which lower is better."""
    floor = found.floor if math.isfinite(found.floor) and found.better != "zero" else 0.0
    value = {"zero": abs(found.value), "higher": floor - found.value}.get(found.better, found.value - floor)
    parts = ((found.stderr, found.df), (found.floor_stderr, found.floor_df))
    stderr, df = spread([Estimate(0.0, error, freedom) for error, freedom in parts if math.isfinite(error)])
    return attrs.evolve(found, value=value, stderr=stderr, df=df, floor=math.nan, floor_stderr=math.nan, better="lower")


def resolved(found: MetricValue) -> bool:
    """Whether an error exceeds its noise."""
    return math.isfinite(found.value) and found.value > max(found.bar, TINY)


def power(points: Sequence[tuple[float, MetricValue]]) -> tuple[float, float] | None:
    """Return the power p with which errors fall with steps, and its standard error; None if they follow no power."""
    ordered = sorted(points, key=lambda point: point[0])
    tails = [ordered[first:] for first in range(len(ordered)) if len({n for n, _ in ordered[first:]}) >= FEWEST]
    fits = [_line(tail) for tail in tails]
    good = [fit for fit in fits if fit[3] <= 1] or [fit for fit in fits if fit[2] >= EXPLAINED]
    return good[0][:2] if good and good[0][0] > 0 and good[0][2] >= EXPLAINED else None


def _line(points: Sequence[tuple[float, MetricValue]]) -> tuple[float, float, float, float]:
    """A weighted line through logarithms of at least three step counts: its exponent, with its standard error; the
    explained share of the variance; the squared deviations over what the errors allow, with two standard errors.
    """
    x, y = np.log([steps for steps, _ in points]), np.log([found.value for _, found in points])
    weights, free = (
        np.array([1 / ((found.stderr / found.value) ** 2 + MODEL**2) for _, found in points]),
        len(points) - 2,
    )
    fit, covariance = np.polyfit(x, y, 1, w=np.sqrt(weights), cov="unscaled")
    residual = float(weights @ (y - np.polyval(fit, x)) ** 2)
    variance = float(weights @ (y - np.average(y, weights=weights)) ** 2)
    stderr = math.sqrt(max(1.0, residual / free) * covariance[0, 0])
    explained = 1 - residual / variance if variance > 0 else 0.0
    return (-float(fit[0]), stderr, explained, residual / (free + 2 * math.sqrt(2 * free)))


class Convergence:
    """The plot of one metric on one target in one panel, with the powers of its lines."""

    def __init__(self, frame: Frame, here: Sequence[int]) -> None:
        series, self.slopes, lines = [], list[Slope](), frame.lines(here)
        for line, members in lines:
            fit = _fit(frame, members)
            self.slopes += [Slope(line, quantity(*fit))] if fit else []
            points = [_point(frame, position) for position in members]
            shown = [f"{point.x:.1f} {point.y:.1f}" for point in points if point.mark != NOISE]
            path = "M" + "L".join(shown) if len(shown) > 1 else ""
            series.append(Series(line, points, path, len(lines) > CROWD and not fit))
        self.plot = Plot(frame, here, series)


def convergences(ranking: Ranking, drawn: Layout) -> list[Convergence]:
    """Return a plot for every metric, target and panel with a line of three resolved errors."""
    pairs = ((metric, target) for target in ranking.targets for metric in ranking.metrics)
    return [one for metric, target in pairs for one in _convergences(ranking, drawn, metric, target)]


def _convergences(ranking: Ranking, drawn: Layout, metric: str, target: str | None) -> list[Convergence]:
    found = {p: value for p, value in ranking.measured(metric, target).items() if p in drawn.lines}
    steps = {position: STEPS.of(ranking.rows[position]) for position in found}
    errors = {p: error(value) for p, value in found.items() if math.isfinite(value.value) and steps[p] > 0}
    clear = {p: e for p, e in errors.items() if resolved(e) and e.value < HUGE}
    counts: dict[tuple[str, Line], set[float]] = {}
    for position in clear:
        counts.setdefault((drawn.panels[position], drawn.lines[position]), set()).add(steps[position])
    if not any(len(several) >= FEWEST for several in counts.values()):
        return []
    across = Across([steps[position] for position in errors])
    frame = Frame(ranking, drawn, STEPS, metric, errors, steps, across, Up(list(clear.values())))
    return [Convergence(frame, here) for here in frame.panels(clear)]


def _fit(frame: Frame, members: Sequence[int]) -> tuple[float, float] | None:
    """The power of one line; None if its values change sign, which is not convergence."""
    clear = [position for position in members if resolved(frame.found[position])]
    raw = [value for position in clear if (value := frame.ranking.value(position, frame.metric))]
    if len({value.value > 0 for value in raw if value.better == "zero"}) > 1:
        return None
    return power([(frame.costs[position], frame.found[position]) for position in clear])


def _point(frame: Frame, position: int) -> Point:
    found = frame.found[position]
    clear, off = resolved(found), "above" if found.value > frame.up.high else ""
    title = f"error {found.text_with_unit}" + ("" if clear else ", within its noise")
    return Point(frame, position, found.bar if clear else 0.0, title, "" if clear else NOISE, off)
