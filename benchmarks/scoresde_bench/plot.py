"""Quality against cost: where the points, bars, bands and ticks of a plot lie, in the units of its drawing.

Geometry only: the template turns it into SVG. The cost axis is logarithmic once the costs span a factor of four. The
quality axis is logarithmic for positive values that span a factor of five, linear for less, and otherwise asinh,

    y = asinh(v / c) / ln 10,     c = the noise near zero (the standard error of the floor),

linear within about c of zero and logarithmic beyond, so that values of either sign and decades apart stay legible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import attrs

from .labels import AXES, as_float, is_done, name, plain, varying
from .ranking import SIGMAS, Measurement, Ranking

WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 408.0, 14.0, 226.0
MARGIN = 26.0
"""From the frame to the least and the largest cost."""
COLOURS = 7
"""How many colours the template has."""
MARKERS = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0Z",
    "M-3.3 -3.3H3.3V3.3H-3.3Z",
    "M0 -4.6L4.3 3.1H-4.3Z",
    "M0 -4.6L4.6 0L0 4.6L-4.6 0Z",
    "M0 4.6L4.3 -3.1H-4.3Z",
    "M-4.2 -1.6H-1.6V-4.2H1.6V-1.6H4.2V1.6H1.6V4.2H-1.6V1.6H-4.2Z",
)
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
CROWD = 12
"""From how many lines on those without a leading cell step back."""
DECADES = 2.5
"""How far above the median an outlier may stretch a logarithmic axis before it is drawn at the edge instead."""
HUGE = 1e300
"""What is no smaller has no place on any axis, lest the arithmetic of axes overflow; nan is not smaller either."""
TINY = 1e-300
"""What is no greater is zero to an axis."""


@attrs.frozen
class Tick:
    """A position along an axis and what stands there."""

    at: float
    text: str


@attrs.frozen
class Point:
    """A measured cell; ``off`` says which edge it lies beyond, if it does."""

    x: float
    y: float
    upper: float
    lower: float
    title: str
    mark: str
    off: str


@attrs.frozen
class Line:
    """The look of one line, shared by all plots of a page, and its entry in the legend."""

    label: str
    colour: int
    marker: str
    dash: str


@attrs.frozen
class Series:
    """One line of one plot: its points, and the path through their mean at every cost."""

    line: Line
    points: list[Point]
    path: str
    faint: bool


@attrs.frozen
class Plot:
    """One metric on one target."""

    metric: str
    target: str | None
    unit: str
    better: str
    axis: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    band: tuple[float, float] | None
    zero: float | None
    series: list[Series]
    beyond: list[str]
    undrawn: list[str]


@attrs.frozen
class Scale:
    """A monotone map of values to positions: ``linear``, ``logarithmic`` or ``asinh`` (linear within ``unit`` of 0)."""

    kind: str
    unit: float = 1.0

    def __call__(self, value: float) -> float:
        if self.kind == "logarithmic":
            return math.log10(value)
        return value if self.kind == "linear" else math.asinh(value / self.unit) / math.log(10)

    def ticks(self, low: float, high: float, most: int = 6) -> list[float]:
        """Round values within ``low`` and ``high`` (values, not positions)."""
        if self.kind == "linear":
            return _steps(low, high, most)
        smallest = low if self.kind == "logarithmic" else self.unit
        exponents = range(math.floor(math.log10(smallest)), math.ceil(math.log10(max(abs(low), abs(high)))) + 1)
        for leading in ((1, 2, 5), (1, 3), (1,)):
            sizes = [digit * 10.0**exponent for exponent in exponents for digit in leading]
            signed = sizes if self.kind == "logarithmic" else [*(-size for size in reversed(sizes)), 0.0, *sizes]
            shown = [v for v in signed if low <= v <= high and (v == 0 or abs(v) >= smallest)]
            if len(shown) <= most:
                return shown if len(shown) > 1 else _steps(low, high, most)
        return shown[:: math.ceil(len(shown) / most)] if self.kind == "logarithmic" else _around_zero(shown, most)


def legend(ranking: Ranking) -> dict[int, Line]:
    """The look of the line that each done row belongs to, by its position.

    A line joins the step counts (and the seeds) of one combination. Its colour is its SDE; marker and dash are all the
    rest. Where there is a single SDE, or no rest, colour and marker both tell the lines apart.
    """
    done = [position for position, row in enumerate(ranking.rows) if is_done(row)]
    rows = [ranking.rows[position] for position in done]
    axes = [axis for axis in AXES if axis in varying(rows) and axis not in ("target", "steps", "seed")]
    rest = [axis for axis in axes if axis != "sde"]
    hues = list(dict.fromkeys(str(row.get("sde")) for row in rows))
    styles = list(dict.fromkeys(name(row, rest) for row in rows))
    lines = {}
    for position, row in zip(done, rows, strict=True):
        hue, style = hues.index(str(row.get("sde"))), styles.index(name(row, rest))
        colour = hue if len(hues) > 1 else style
        shape = style if len(styles) > 1 else hue
        dash = DASHES[style % len(DASHES)] if len(styles) > 1 else DASHES[0]
        label = name(row, axes or ["sde"])
        lines[position] = Line(label, colour % COLOURS, MARKERS[shape % len(MARKERS)], dash)
    return lines


def plots(ranking: Ranking) -> list[Plot]:
    """A plot for every metric and target that has a finite value to show."""
    lines = legend(ranking)
    drawn = (_plot(ranking, lines, metric, target) for target in ranking.targets for metric in ranking.metrics)
    return [plot for plot in drawn if plot]


def _plot(ranking: Ranking, lines: dict[int, Line], metric: str, target: str | None) -> Plot | None:
    judged = {
        position: found
        for position in lines
        if ranking.rows[position].get("target") == target and (found := ranking.measurement(position, metric))
    }
    costs = {position: as_float(ranking.rows[position].get("nfe")) for position in judged}
    shown = [p for p, found in judged.items() if abs(found.value) < HUGE and 0 < costs[p] < HUGE]
    if not shown:
        return None
    across = _Across.over([costs[position] for position in shown])
    up = _Up.over([judged[position] for position in shown])
    order = list(dict.fromkeys(lines[position] for position in shown))
    series = []
    for rank, line in enumerate(order):
        members = sorted((p for p in shown if lines[p] == line), key=lambda p: costs[p])
        shift = _dodge(rank, len(order), single=len({costs[p] for p in shown}) == 1)
        points = [
            _point(judged[p], ranking.labels[p], ranking.mark(p, metric), across(costs[p]) + shift, up) for p in members
        ]
        faint = len(order) > CROWD and not any(point.mark for point in points)
        series.append(Series(line, points, _path(points), faint))
    series.sort(key=lambda one: not one.faint)  # what steps back is drawn first
    first = judged[shown[0]]
    return Plot(
        metric=metric,
        target=target,
        unit=first.unit,
        better=first.better,
        axis=up.scale.kind,
        x_ticks=_cost_ticks([costs[position] for position in shown], across),
        y_ticks=[Tick(up(v), _tick_text(v)) for v in up.scale.ticks(up.low, up.high)],
        band=_band([judged[position] for position in shown], up),
        zero=up(0.0) if up.low < 0 < up.high else None,
        series=series,
        beyond=[point.title for one in series for point in one.points if point.off],
        undrawn=[ranking.labels[position] for position in judged if position not in shown],
    )


@attrs.frozen
class _Across:
    """Costs to horizontal positions; ``low`` and ``high`` in units of the scale."""

    scale: Scale
    low: float
    high: float

    @classmethod
    def over(cls, costs: Sequence[float]) -> _Across:
        least, most = min(costs), max(costs)
        scale = Scale("logarithmic" if most / least >= 4 else "linear")
        return cls(scale, scale(least), scale(most))

    def __call__(self, cost: float) -> float:
        if self.high == self.low:
            return (LEFT + RIGHT) / 2
        share = (self.scale(cost) - self.low) / (self.high - self.low)
        return LEFT + MARGIN + share * (RIGHT - LEFT - 2 * MARGIN)


@attrs.frozen
class _Up:
    """Qualities to vertical positions, held within the frame; ``low`` and ``high`` are values."""

    scale: Scale
    low: float
    high: float

    @classmethod
    def over(cls, found: Sequence[Measurement]) -> _Up:
        """The scale and the range for these finite measurements."""
        scale = _quality_scale(found)
        floors = [m.floor for m in found if math.isfinite(m.floor)]
        bars = [m.value + side * SIGMAS * m.stderr for m in found if m.stderr < HUGE for side in (-1, 1)]
        wanted = [*(m.value for m in found), *floors, *bars]
        if scale.kind == "logarithmic":  # a bar may end below zero, where this axis does not reach
            wanted = [v for v in wanted if v > min(m.value for m in found) / 2 or v in floors]
        elif scale.kind == "asinh":
            wanted.append(0.0)
        if scale.kind != "linear":
            central = max(median(abs(m.value) for m in found), scale.unit if scale.kind == "asinh" else 0.0)
            wanted = [v for v in wanted if abs(v) <= central * 10**DECADES]
        return cls(scale, *_padded(scale, min(wanted), max(wanted)))

    def __call__(self, value: float) -> float:
        bottom, top = self.scale(self.low), self.scale(self.high)
        share = (self.scale(min(max(value, self.low), self.high)) - bottom) / (top - bottom)
        return BOTTOM - share * (BOTTOM - TOP)


def _cost_ticks(costs: Sequence[float], across: _Across) -> list[Tick]:
    """The costs themselves, as many as stand clear of each other, else round values."""
    values = sorted(set(costs))
    if len(values) == 1:
        return [Tick(across(values[0]), f"{values[0]:,.6g}" + (", all cells" if len(costs) > 1 else ""))]
    ticks: list[Tick] = []
    for cost in values if len(values) <= 12 else across.scale.ticks(values[0], values[-1]):
        tick = Tick(across(cost), f"{cost:,.6g}")
        if not ticks or tick.at - ticks[-1].at >= 4.0 * (len(tick.text) + len(ticks[-1].text)):
            ticks.append(tick)
    return ticks


def _quality_scale(found: Sequence[Measurement]) -> Scale:
    """Logarithmic, linear or asinh, as the module docstring says."""
    values = [m.value for m in found] + [m.floor for m in found if math.isfinite(m.floor)]
    least, most = min(values), max(values)
    if least > TINY:
        return Scale("logarithmic" if most / least >= 5 else "linear")
    extent, unit = max(-least, most), _noise_near_zero(found)
    unit = max(unit or extent / 100, TINY)
    return Scale("asinh", unit) if extent > 20 * unit else Scale("linear")


def _noise_near_zero(found: Sequence[Measurement]) -> float:
    """The standard error of the floor, else of the values, else 0."""
    for errors in ([m.floor_stderr for m in found], [m.stderr for m in found]):
        known = [error for error in errors if 0 < error < math.inf]
        if known:
            return median(known)
    return 0.0


def _padded(scale: Scale, low: float, high: float) -> tuple[float, float]:
    """The range with a margin, as values; never empty."""
    if scale.kind == "logarithmic":
        factor = max(1.15, (high / low) ** 0.06)
        return low / factor, high * factor
    if scale.kind == "asinh":
        bottom, top = scale(low), scale(high)
        margin = 0.06 * (top - bottom) or 1.0
        back = [scale.unit * math.sinh(math.log(10) * v) for v in (bottom - margin, top + margin)]
        return back[0], back[1]
    margin = max(0.08 * (high - low), 1e-3 * abs(high))
    margin = margin if margin > TINY else 1.0
    return low - margin, high + margin


def _point(found: Measurement, label: str, mark: str, x: float, up: _Up) -> Point:
    bar = SIGMAS * found.stderr if math.isfinite(found.stderr) else 0.0
    off = "above" if found.value > up.high else "below" if found.value < up.low else ""
    title = f"{label}: {found.text_with_unit}"
    return Point(x, up(found.value), up(found.value + bar), up(found.value - bar), title, mark, off)


def _path(points: Sequence[Point]) -> str:
    """Through the mean height of the points at each cost (several seeds share one)."""
    heights: dict[float, list[float]] = {}
    for point in points:
        heights.setdefault(point.x, []).append(point.y)
    if len(heights) < 2:
        return ""
    return "M" + "L".join(f"{x:.1f} {sum(ys) / len(ys):.1f}" for x, ys in heights.items())


def _band(found: Sequence[Measurement], up: _Up) -> tuple[float, float] | None:
    """Top and height of the band that exact samples fill: their score, two standard errors either side."""
    ends = [
        m.floor + side * SIGMAS * (m.floor_stderr if math.isfinite(m.floor_stderr) else 0.0)
        for m in found
        if math.isfinite(m.floor)
        for side in (-1, 1)
    ]
    if not ends or max(ends) < up.low or min(ends) > up.high:
        return None
    top = up(max(ends))
    return top, max(1.0, up(min(ends)) - top)


def _dodge(rank: int, many: int, single: bool) -> float:
    """A small sideways shift for each line, lest the bars of equal costs hide each other."""
    spread = (RIGHT - LEFT) * 0.8 if single else min(5.0 * (many - 1), 22.0)
    return 0.0 if many == 1 else (rank / (many - 1) - 0.5) * spread


def _steps(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within the range."""
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= raw * 0.999)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _around_zero(values: Sequence[float], most: int) -> list[float]:
    """Every so many of these, counted from zero, so that zero stays."""
    stride, middle = math.ceil(len(values) / most), values.index(0.0) if 0.0 in values else 0
    return [v for place, v in enumerate(values) if (place - middle) % stride == 0]


def _tick_text(value: float) -> str:
    text = plain(value, 3) if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace("-", "−")
