"""Plots of quality against cost, and of errors against steps, in drawing units; the template turns them into SVG.

A cost is the number of function evaluations, the time per sample, or the training steps of a checkpoint. The Pareto
front holds the cells that no other cell beats in quality at the same cost or less; it spans all panels of a metric and
ignores the noise.

Convergence is error against the number of steps, on logarithmic axes, with fitted powers.

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

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product

import attrs
import numpy as np
from scoresde_core import Estimate
from scoresde_run.results.certainty import spread
from .labels import ResultRow, as_float, quantity, truth
from .lines import CROWD, Layout, Line, pareto
from .ranking import MetricValue, Ranking, half_interval
from .scales import HUGE, LEFT, RIGHT, TINY, Axis, across, cost_ticks, quality_ticks, up

NOISE, WINNERS = "noise", ("best", "tied")
"""Marks of points: within their noise, and not told apart from the best."""
FEWEST = 3
MODEL = 0.05  # relative deviation from a power that is allowed
EXPLAINED = 0.97  # share of the variance of log e that a power must explain to be shown


@attrs.frozen
class Cost:
    """A horizontal axis: its title, its unit, the cost of a row, and the axis that its lines join.

    Costs that are ``counted`` are ticks; lines that are ``dodged`` are shifted, so that their bars do not overlap.
    """

    title: str
    words: str
    of: Callable[[ResultRow], float]
    joined: str = "steps"
    counted: bool = True
    dodged: bool = True


NFE = Cost("function evaluations per sample (NFE)", "NFE", lambda row: as_float(row.get("nfe")))
TIME = Cost(
    "milliseconds per sample", "ms per sample",
    lambda row: 1000.0 / speed if (speed := as_float(row.get("samples_per_second"))) > 0 else math.nan,
    counted=False, dodged=False,
)  # fmt: skip
TRAINING = Cost("training steps", "training steps", lambda row: as_float(row.get("training_step")), "training_step")
STEPS = Cost("steps", "steps", lambda row: as_float(row.get("steps")), dodged=False)


@attrs.frozen
class Point:
    """A measured cell with its bar; ``off`` is the edge beyond which it lies (``above``, ``below``) or empty."""

    position: int
    x: float
    y: float
    upper: float
    lower: float
    title: str
    mark: str
    off: str
    front: bool


@attrs.frozen
class Series:
    """One line of a plot: its points, and the ends of its path, at their mean height at every cost."""

    line: Line
    points: list[Point]
    path: list[tuple[float, float]]
    faint: bool


@attrs.frozen
class Frame:
    """The values of one metric on one target with their costs, and the scales that its panels share."""

    ranking: Ranking
    drawn: Layout
    cost: Cost
    metric: str
    found: Mapping[int, MetricValue]  # values by the position of their row among the ranked rows
    costs: Mapping[int, float]
    across: Axis
    up: Axis

    def panels(self, needed: Collection[int]) -> Iterator[list[int]]:
        """Yield the positions in each panel that has one of ``needed``."""
        for title in self.drawn.titles:
            here = [position for position in self.found if self.drawn.panels[position] == title]
            if any(position in needed for position in here):
                yield here

    def lines(self, positions: Iterable[int]) -> list[tuple[Line, list[int]]]:
        """Return the lines through ``positions``, each with its members by cost."""
        members: dict[Line, list[int]] = {}
        for position in positions:
            members.setdefault(self.drawn.lines[position], []).append(position)
        return [(line, sorted(those, key=self.costs.__getitem__)) for line, those in members.items()]

    def point(self, position: int, bar: float, told: str, mark: str, front: bool = False) -> Point:
        """The point of a value with a ``bar`` of this half length; ``told`` stands behind its label."""
        value, up = self.found[position].value, self.up
        x, (y, upper, lower) = self.across(self.costs[position]), map(up, (value, value + bar, value - bar))
        off = "above" if value > up.high else "below" if value < up.low and mark != NOISE else ""
        title = f"{self.ranking.labels[position]}: {told}"
        return Point(position, x, y, upper, lower, title, mark, off, front)


class Plot:
    """The plot of one metric on one target in the panel that has the positions ``here``; ``points`` are drawn.

    Of more than CROWD lines only those with a fit, or a leading cell, are not faint. ``front`` has corners of the
    staircase, ``band`` top and height of the confidence interval of exact samples, ``slopes`` the exponents.
    """

    def __init__(
        self, frame: Frame, here: Sequence[int], points: Mapping[int, Point],
        front: Sequence[tuple[float, float]], fits: Mapping[Line, tuple[float, float]],
    ) -> None:  # fmt: skip
        shown, up = [position for position in here if position in points], frame.up
        first, lines, costs = shown[0], frame.lines(shown), [frame.costs[position] for position in shown]
        self.metric, self.cost, self.axis, self.front = frame.metric, frame.cost, up.scale.kind, front
        self.panel, self.target = frame.drawn.panels[first], truth(frame.ranking.rows[first])
        self.unit, self.better = frame.found[first].unit, frame.found[first].better
        self.series, gaps = [], len(lines) - 1
        leading = {*fits, *(frame.drawn.lines[p] for p in shown if points[p].mark in WINNERS or points[p].front)}
        # Lines are a little apart, so that bars of equal cost do not overlap.
        width = (RIGHT - LEFT) * 0.8 if len(set(costs)) == 1 else min(5.0 * gaps, 22.0)
        for rank, (line, members) in enumerate(lines):
            shift = (rank / gaps - 0.5) * width if gaps and frame.cost.dodged else 0.0
            moved = [attrs.evolve(points[p], x=points[p].x + shift) for p in members]
            self.series.append(Series(line, moved, _path(moved), len(lines) > CROWD and line not in leading))
        self.series.sort(key=lambda one: not one.faint)  # faint lines are drawn first
        self.x_ticks, self.y_ticks = cost_ticks(costs, frame.across, frame.cost.counted), quality_ticks(up)
        self.beyond = [point.title.partition("\n")[0] for one in self.series for point in one.points if point.off]
        self.undrawn = [frame.ranking.labels[position] for position in here if position not in points]
        self.zero = up(0.0) if up.low < 0 < up.high else None
        self.slopes, self.band = [(line, quantity(*fit)) for line, fit in fits.items()], None
        floors = [m for position in shown if math.isfinite((m := frame.found[position]).floor)]
        ends = [m.floor + side * half_interval(m.floor_stderr, m.floor_df) for m in floors for side in (-1, 1)]
        if ends and max(ends) >= up.low and min(ends) <= up.high:
            self.band = up(max(ends)), max(1.0, up(min(ends)) - up(max(ends)))


def plots(ranking: Ranking, cost: Cost = NFE, drawn: Layout | None = None) -> list[Plot]:
    """Return a plot for every metric, target and panel with a finite value."""
    drawn, made = drawn or Layout(ranking, cost.joined), []
    for target, metric in product(ranking.targets, ranking.metrics):
        found = {p: value for p, value in ranking.measured(metric, target).items() if p in drawn.lines}
        costs = {position: cost.of(ranking.rows[position]) for position in found}
        shown = [p for p, value in found.items() if abs(value.value) < HUGE and 0 < costs[p] < HUGE]
        if not shown:
            continue
        axes = across([costs[p] for p in shown]), up([found[p] for p in shown])
        frame = Frame(ranking, drawn, cost, metric, found, costs, *axes)
        front = pareto({p: (costs[p], found[p].badness) for p in shown})
        told = {p: f"{found[p].text_with_unit}\n{costs[p]:,.4g} {cost.words}" for p in shown}
        points = {p: frame.point(p, found[p].bar, told[p], ranking.mark(p, metric), p in front) for p in shown}
        made += [Plot(frame, here, points, _corners(frame, front), {}) for here in frame.panels(shown)]
    return made


def _corners(frame: Frame, front: Sequence[int]) -> list[tuple[float, float]]:
    """The best value at each cost; empty if values lie on both sides of 0 and 0 is best."""
    places = [(frame.costs[position], frame.found[position]) for position in front]
    values = [found.value for _, found in places]
    if len(set(places)) < 2 or (places[0][1].better == "zero" and min(values) < 0 < max(values)):
        return []
    return [(frame.across(cost), frame.up(found.value)) for cost, found in places]


def _path(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The mean height at each cost of the points beyond their noise, if there are two."""
    heights: dict[float, list[float]] = {}
    for point in points:
        if point.mark != NOISE:
            heights.setdefault(point.x, []).append(point.y)
    return [(x, sum(ys) / len(ys)) for x, ys in heights.items()] if len(heights) > 1 else []


def error(found: MetricValue) -> MetricValue:
    """The excess of a value over exact samples, as a value for which lower is better."""
    floor = found.floor if math.isfinite(found.floor) and found.better != "zero" else 0.0
    value = {"zero": abs(found.value), "higher": floor - found.value}.get(found.better, found.value - floor)
    parts = ((found.stderr, found.df), (found.floor_stderr, found.floor_df))
    stderr, df = spread([Estimate(0.0, error, freedom) for error, freedom in parts if math.isfinite(error)])
    return attrs.evolve(found, value=value, stderr=stderr, df=df, floor=math.nan, floor_stderr=math.nan, better="lower")


def resolved(found: MetricValue) -> bool:
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
    weights = np.array([1 / ((found.stderr / found.value) ** 2 + MODEL**2) for _, found in points])
    free = len(points) - 2
    fit, covariance = np.polyfit(x, y, 1, w=np.sqrt(weights), cov="unscaled")
    residual = float(weights @ (y - np.polyval(fit, x)) ** 2)
    variance = float(weights @ (y - np.average(y, weights=weights)) ** 2)
    stderr = math.sqrt(max(1.0, residual / free) * covariance[0, 0])
    explained = 1 - residual / variance if variance > 0 else 0.0
    return (-float(fit[0]), stderr, explained, residual / (free + 2 * math.sqrt(2 * free)))


def convergences(ranking: Ranking, drawn: Layout) -> list[Plot]:
    """Return a plot with ``slopes`` for every metric, target and panel with a line of three resolved errors."""
    made: list[Plot] = []
    for target, metric in product(ranking.targets, ranking.metrics):
        found = {p: value for p, value in ranking.measured(metric, target).items() if p in drawn.lines}
        steps = {position: STEPS.of(ranking.rows[position]) for position in found}
        errors = {p: error(value) for p, value in found.items() if math.isfinite(value.value) and steps[p] > 0}
        clear = {p: e for p, e in errors.items() if resolved(e) and e.value < HUGE}
        counts: dict[tuple[str, Line], set[float]] = {}
        for position in clear:
            counts.setdefault((drawn.panels[position], drawn.lines[position]), set()).add(steps[position])
        if not any(len(several) >= FEWEST for several in counts.values()):
            continue
        axes = across([steps[position] for position in errors]), up([*clear.values()])
        frame = Frame(ranking, drawn, STEPS, metric, errors, steps, *axes)
        looks = {p: (e.bar, "", "") if resolved(e) else (0.0, ", within its noise", NOISE) for p, e in errors.items()}
        told = {position: f"error {e.text_with_unit}" for position, e in errors.items()}
        points = {p: frame.point(p, bar, told[p] + more, mark) for p, (bar, more, mark) in looks.items()}
        for here in frame.panels(clear):
            fits = {line: fit for line, members in frame.lines(here) if (fit := _fit(frame, members))}
            made.append(Plot(frame, here, points, (), fits))
    return made


def _fit(frame: Frame, members: Sequence[int]) -> tuple[float, float] | None:
    """The power of one line; None if its values change sign, which is not convergence."""
    clear = [position for position in members if resolved(frame.found[position])]
    raw = [value for position in clear if (value := frame.ranking.value(position, frame.metric))]
    if len({value.value > 0 for value in raw if value.better == "zero"}) > 1:
        return None
    return power([(frame.costs[position], frame.found[position]) for position in clear])
