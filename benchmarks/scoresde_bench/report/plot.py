"""The geometry of plots of quality against cost, in drawing units; the template turns it into SVG.

A cost is the number of function evaluations, the time per sample, or the training steps of a checkpoint. The Pareto
front holds the cells that no other cell beats in quality at the same cost or less; it spans all panels of a metric and
ignores the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import attrs

from .labels import ResultRow, as_float
from .lines import CROWD, Layout, Line, pareto
from .ranking import MetricValue, Ranking
from .scales import HUGE, LEFT, RIGHT, Across, Up, cost_ticks, quality_ticks


@attrs.frozen
class Cost:
    """A horizontal axis: its title, its unit, the cost of a row, and the axis that its lines join."""

    title: str
    words: str
    of: Callable[[ResultRow], float]
    joined: str = "steps"
    counted: bool = True


NFE = Cost("function evaluations per sample (NFE)", "NFE", lambda row: as_float(row.get("nfe")))
TIME = Cost(
    "milliseconds per sample",
    "ms per sample",
    lambda row: 1000.0 / speed if (speed := as_float(row.get("samples_per_second"))) > 0 else math.nan,
    counted=False,
)
TRAINING = Cost("training steps", "training steps", lambda row: as_float(row.get("training_step")), "training_step")


class Point:
    """A measured cell, with a ``bar`` of this half length, shifted sideways by ``shift``.

    ``off`` is the edge beyond which it lies (``above``, ``below``) or empty.
    """

    def __init__(
        self, frame: Frame, position: int, bar: float, title: str, mark: str, off: str,
        shift: float = 0.0, front: bool = False,
    ) -> None:  # fmt: skip
        value = frame.found[position].value
        self.x = frame.across(frame.costs[position]) + shift
        self.y, self.upper, self.lower = map(frame.up, (value, value + bar, value - bar))
        self.title = f"{frame.ranking.labels[position]}: {title}"
        self.mark, self.off, self.position, self.front = mark, off, position, front


@attrs.frozen
class Series:
    """One line of a plot: its points, and the path through their mean at every cost."""

    line: Line
    points: list[Point]
    path: str
    faint: bool


@attrs.frozen
class Frame:
    """The values of one metric on one target with their costs, and the scales that its panels share."""

    ranking: Ranking
    drawn: Layout
    cost: Cost
    metric: str
    found: Mapping[int, MetricValue]
    """Values by the position of their row among the ranked rows."""
    costs: Mapping[int, float]
    across: Across
    up: Up

    def panels(self, needed: Collection[int]) -> Iterator[list[int]]:
        """Yield the positions in each panel that has one of ``needed``."""
        for title in self.drawn.titles:
            here = [position for position in self.found if self.drawn.panels[position] == title]
            if any(position in needed for position in here):
                yield here

    def lines(self, positions: Sequence[int]) -> list[tuple[Line, list[int]]]:
        """Return the lines through ``positions``, each with its members by cost."""
        members: dict[Line, list[int]] = {}
        for position in positions:
            members.setdefault(self.drawn.lines[position], []).append(position)
        return [(line, sorted(those, key=self.costs.__getitem__)) for line, those in members.items()]


class Plot:
    """The plot of one metric on one target in the panel that has the points ``shown``."""

    def __init__(self, frame: Frame, shown: Sequence[int], series: list[Series]) -> None:
        first, up = shown[0], frame.up
        self.metric, self.cost, self.axis, self.series = frame.metric, frame.cost, up.scale.kind, series
        self.panel, self.target = frame.drawn.panels[first], frame.ranking.rows[first].get("target")
        self.unit, self.better = frame.found[first].unit, frame.found[first].better
        self.x_ticks = cost_ticks([frame.costs[position] for position in shown], frame.across, frame.cost.counted)
        self.y_ticks = quality_ticks(up)
        self.beyond = [point.title.partition("\n")[0] for one in series for point in one.points if point.off]
        self.band: tuple[float, float] | None = None
        self.zero: float | None = None
        self.front, self.undrawn = "", list[str]()


def plots(ranking: Ranking, cost: Cost = NFE, drawn: Layout | None = None) -> list[Plot]:
    """Return a plot for every metric, target and panel with a finite value."""
    drawn = drawn or Layout(ranking, cost.joined)
    pairs = ((metric, target) for target in ranking.targets for metric in ranking.metrics)
    return [plot for metric, target in pairs for plot in _plots(ranking, drawn, cost, metric, target)]


def _plots(ranking: Ranking, drawn: Layout, cost: Cost, metric: str, target: str | None) -> list[Plot]:
    found = {p: value for p, value in ranking.measured(metric, target).items() if p in drawn.lines}
    costs = {position: cost.of(ranking.rows[position]) for position in found}
    shown = [p for p, value in found.items() if abs(value.value) < HUGE and 0 < costs[p] < HUGE]
    if not shown:
        return []
    across, up = Across([costs[p] for p in shown]), Up([found[p] for p in shown])
    front = pareto({p: (costs[p], found[p].badness) for p in shown})
    stairs = _stairs([(costs[p], found[p]) for p in front], across, up)
    frame = Frame(ranking, drawn, cost, metric, found, costs, across, up)
    return [_plot(frame, here, shown, front, stairs) for here in frame.panels(shown)]


def _plot(frame: Frame, here: Sequence[int], drawable: Sequence[int], front: Sequence[int], stairs: str) -> Plot:
    up, cost, able = frame.up, frame.cost, set(drawable)
    shown = [position for position in here if position in able]
    lines, single = frame.lines(shown), len({frame.costs[position] for position in shown}) == 1
    series = []
    for rank, (line, members) in enumerate(lines):
        shift = _dodge(rank, len(lines), single) if cost.counted else 0.0
        points = [_point(frame, position, shift, position in front) for position in members]
        faint = len(lines) > CROWD and not any(point.mark or point.front for point in points)
        series.append(Series(line, points, _path(points), faint))
    plot = Plot(frame, shown, sorted(series, key=lambda one: not one.faint))  # faint lines are drawn first
    plot.band, plot.front = _band([frame.found[position] for position in shown], up), stairs
    plot.zero = up(0.0) if up.low < 0 < up.high else None
    plot.undrawn = [frame.ranking.labels[position] for position in here if position not in able]
    return plot


def _stairs(front: Sequence[tuple[float, MetricValue]], across: Across, up: Up) -> str:
    """The staircase of the best value at each cost; empty if values lie on both sides of 0 and 0 is best."""
    values = [found.value for _, found in front]
    if len(set(front)) < 2 or (front[0][1].better == "zero" and min(values) < 0 < max(values)):
        return ""
    (cost, first), *rest = front
    path = f"M{across(cost):.1f} {up(first.value):.1f}"
    path += "".join(f"H{across(cost):.1f}V{up(found.value):.1f}" for cost, found in rest)
    return path + f"H{RIGHT:.1f}"


def _point(frame: Frame, position: int, shift: float, front: bool) -> Point:
    up, found, cost = frame.up, frame.found[position], frame.costs[position]
    off = "above" if found.value > up.high else "below" if found.value < up.low else ""
    title = f"{found.text_with_unit}\n{cost:,.4g} {frame.cost.words}"
    return Point(frame, position, found.bar, title, frame.ranking.mark(position, frame.metric), off, shift, front)


def _path(points: Sequence[Point]) -> str:
    """The path through the mean height of the points at each cost."""
    heights: dict[float, list[float]] = {}
    for point in points:
        heights.setdefault(point.x, []).append(point.y)
    if len(heights) < 2:
        return ""
    return "M" + "L".join(f"{x:.1f} {sum(ys) / len(ys):.1f}" for x, ys in heights.items())


def _band(found: Sequence[MetricValue], up: Up) -> tuple[float, float] | None:
    """Top and height of the band of exact samples: the confidence interval of their score."""
    ends = [m.floor + side * m.floor_bar for m in found if math.isfinite(m.floor) for side in (-1, 1)]
    if not ends or max(ends) < up.low or min(ends) > up.high:
        return None
    top = up(max(ends))
    return top, max(1.0, up(min(ends)) - top)


def _dodge(rank: int, many: int, single: bool) -> float:
    """A small sideways shift for each line, so that bars of equal cost do not overlap."""
    spread = (RIGHT - LEFT) * 0.8 if single else min(5.0 * (many - 1), 22.0)
    return 0.0 if many == 1 else (rank / (many - 1) - 0.5) * spread
