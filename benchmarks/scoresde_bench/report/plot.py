"""The geometry of plots of quality against cost, in drawing units; the template turns it into SVG.

A cost is the number of function evaluations, the time per sample, or the training steps of a checkpoint. The Pareto
front holds the cells that no other cell beats in quality at the same cost or less; it spans all panels of a metric and
ignores the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs

from .labels import ResultRow, as_float
from .lines import CROWD, Layout, Line, layout
from .ranking import MetricValue, Ranking
from .scales import HUGE, LEFT, RIGHT, Across, Tick, Up, cost_ticks, tick_text


@attrs.frozen
class Cost:
    """A horizontal axis: its title, its unit, the cost of a row, and the axis that its lines join."""

    title: str
    words: str
    of: Callable[[ResultRow], float]
    joined: str = "steps"
    counted: bool = True


def _milliseconds(row: ResultRow) -> float:
    speed = as_float(row.get("samples_per_second"))
    return 1000.0 / speed if speed > 0 else math.nan


NFE = Cost("function evaluations per sample (NFE)", "NFE", lambda row: as_float(row.get("nfe")))
TIME = Cost("milliseconds per sample", "ms per sample", _milliseconds, counted=False)
TRAINING = Cost(
    "training steps", "training steps", lambda row: as_float(row.get("training_step")), joined="training_step"
)


@attrs.frozen
class Point:
    """A measured cell; ``off`` is the edge beyond which it lies (``above``, ``below``) or empty."""

    x: float
    y: float
    upper: float
    lower: float
    title: str
    mark: str
    off: str
    position: int
    front: bool


@attrs.frozen
class Series:
    """One line of a plot: its points, and the path through their mean at every cost."""

    line: Line
    points: list[Point]
    path: str
    faint: bool


@attrs.frozen
class Plot:
    """The plot of one metric on one target in one panel."""

    metric: str
    target: str | None
    panel: str
    cost: Cost
    unit: str
    better: str
    axis: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    beyond: list[str]
    undrawn: Sequence[str] = ()
    band: tuple[float, float] | None = None
    zero: float | None = None
    front: str = ""


def plots(ranking: Ranking, cost: Cost = NFE, drawn: Layout | None = None) -> list[Plot]:
    """Return a plot for every metric, target and panel with a finite value."""
    drawn = drawn or layout(ranking, cost.joined)
    return [
        plot
        for target in ranking.targets
        for metric in ranking.metrics
        for plot in _panels(ranking, drawn, cost, metric, target)
    ]


@attrs.frozen
class _Frame:
    """The scales and the front, shared by the panels of a metric."""

    across: Across
    up: Up
    front: set[int]
    stairs: str


def _panels(ranking: Ranking, drawn: Layout, cost: Cost, metric: str, target: str | None) -> list[Plot]:
    judged = {
        position: found
        for position in drawn.lines
        if ranking.rows[position].get("target") == target and (found := ranking.value(position, metric))
    }
    costs = {position: cost.of(ranking.rows[position]) for position in judged}
    shown = [p for p, found in judged.items() if abs(found.value) < HUGE and 0 < costs[p] < HUGE]
    if not shown:
        return []
    across, up = Across.over([costs[p] for p in shown]), Up.over([judged[p] for p in shown])
    front = pareto({p: (costs[p], judged[p].badness) for p in shown})
    frame = _Frame(across, up, set(front), _stairs([(costs[p], judged[p]) for p in front], across, up))
    plots = []
    for panel in drawn.titles:
        here = {position: found for position, found in judged.items() if drawn.panels[position] == panel}
        if any(position in here for position in shown):
            plots.append(_plot(ranking, drawn, cost, metric, here, costs, frame))
    return plots


def _plot(
    ranking: Ranking,
    drawn: Layout,
    cost: Cost,
    metric: str,
    judged: Mapping[int, MetricValue],
    costs: Mapping[int, float],
    frame: _Frame,
) -> Plot:
    across, up = frame.across, frame.up
    shown = [p for p, found in judged.items() if abs(found.value) < HUGE and 0 < costs[p] < HUGE]
    order = list(dict.fromkeys(drawn.lines[position] for position in shown))
    series = []
    for rank, line in enumerate(order):
        members = sorted((p for p in shown if drawn.lines[p] == line), key=lambda p: costs[p])
        single = len({costs[p] for p in shown}) == 1
        shift = _dodge(rank, len(order), single) if cost.counted else 0.0
        points = [_point(ranking, metric, p, judged[p], cost, across(costs[p]) + shift, frame) for p in members]
        faint = len(order) > CROWD and not any(point.mark or point.front for point in points)
        series.append(Series(line, points, _path(points), faint))
    series.sort(key=lambda one: not one.faint)  # faint lines are drawn first
    first = shown[0]
    return Plot(
        metric=metric,
        target=ranking.rows[first].get("target"),
        panel=drawn.panels[first],
        cost=cost,
        unit=judged[first].unit,
        better=judged[first].better,
        axis=up.scale.kind,
        x_ticks=cost_ticks([costs[position] for position in shown], across, cost.counted),
        y_ticks=[Tick(up(v), tick_text(v)) for v in up.scale.ticks(up.low, up.high)],
        band=_band([judged[position] for position in shown], up),
        zero=up(0.0) if up.low < 0 < up.high else None,
        front=frame.stairs,
        series=series,
        beyond=[point.title.partition("\n")[0] for one in series for point in one.points if point.off],
        undrawn=[ranking.labels[position] for position in judged if position not in shown],
    )


def pareto(found: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the keys of the (cost, badness) that no other dominates, cheapest first."""
    front: list[int] = []
    for key, (cost, badness) in sorted(found.items(), key=lambda item: item[1]):
        if not front or badness < found[front[-1]][1] or (cost, badness) == found[front[-1]]:
            front.append(key)
    return front


def _stairs(front: Sequence[tuple[float, MetricValue]], across: Across, up: Up) -> str:
    """The staircase of the best value at each cost; empty if values lie on both sides of 0 and 0 is best."""
    values = [found.value for _, found in front]
    if len(set(front)) < 2 or (front[0][1].better == "zero" and min(values) < 0 < max(values)):
        return ""
    (cost, first), *rest = front
    path = f"M{across(cost):.1f} {up(first.value):.1f}"
    path += "".join(f"H{across(cost):.1f}V{up(found.value):.1f}" for cost, found in rest)
    return path + f"H{RIGHT:.1f}"


def _point(
    ranking: Ranking, metric: str, position: int, found: MetricValue, cost: Cost, x: float, frame: _Frame
) -> Point:
    up, row = frame.up, ranking.rows[position]
    bar = found.bar
    off = "above" if found.value > up.high else "below" if found.value < up.low else ""
    title = f"{ranking.labels[position]}: {found.text_with_unit}\n{cost.of(row):,.4g} {cost.words}"
    upper, lower, mark = up(found.value + bar), up(found.value - bar), ranking.mark(position, metric)
    return Point(x, up(found.value), upper, lower, title, mark, off, position, position in frame.front)


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
