"""Scales map values to positions in drawing units, and choose ticks.

The cost axis is logarithmic if the costs span a factor of four. The quality axis is logarithmic for positive values
that span a factor of five, linear if they span less, and otherwise asinh,

    y = asinh(v / c) / ln 10,     c = the noise near zero (the standard error of the floor),

which is linear within about c of zero and logarithmic beyond, so that values of both signs and different magnitudes
stay legible.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import attrs
import numpy as np
from matplotlib.ticker import AsinhLocator, Locator, LogLocator, MaxNLocator
from .labels import plain
from .ranking import MetricValue

WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 408.0, 14.0, 226.0
MARGIN = 26.0  # distance from the frame to the smallest and largest cost
DECADES = 2.5  # decades above the median beyond which an outlier is drawn at the edge of a logarithmic axis
HUGE = 1e300  # values from here on, and nan, are not drawn: the arithmetic of axes would overflow
TINY = 1e-300  # values up to here count as zero


class Tick(NamedTuple):
    at: float
    text: str


@attrs.frozen
class Scale:
    """A monotone map to positions: ``linear``, ``logarithmic`` or ``asinh`` (linear within ``unit`` of 0)."""

    kind: str
    unit: float = 1.0

    def __call__(self, value: float) -> float:
        if self.kind == "logarithmic":
            return math.log10(value)
        return value if self.kind == "linear" else math.asinh(value / self.unit) / math.log(10)

    def value(self, position: float) -> float:
        """Return the value at a position."""
        if self.kind == "logarithmic":
            return float(10.0 ** min(max(position, math.log10(TINY)), math.log10(HUGE)))
        return position if self.kind == "linear" else self.unit * math.sinh(position * math.log(10))

    def padded(self, low: float, high: float) -> tuple[float, float]:
        """Return the range of the values ``low`` to ``high`` with a margin; never empty."""
        bottom, top = self(low), self(high)
        least = {"logarithmic": math.log10(1.15), "linear": 1e-3 * abs(high)}.get(self.kind, 0.0)
        margin = max(0.06 * (top - bottom), least)
        margin = margin if margin > TINY else 1.0
        return self.value(bottom - margin), self.value(top + margin)

    def ticks(self, low: float, high: float) -> list[float]:
        """Return round values between the values ``low`` and ``high``."""
        locator: Locator = MaxNLocator(5, steps=[1, 2, 5, 10])
        if self.kind == "asinh":
            locator = AsinhLocator(self.unit, numticks=11)
        elif self.kind == "logarithmic" and (decades := self(high) - self(low)) > 0.7:
            digits = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
            locator = LogLocator(subs=digits, numticks=6)
        with np.errstate(all="ignore"):  # beyond the range, or of extreme values, which then have no tick
            return [value for value in map(float, locator.tick_values(low, high)) if low <= value <= high]


@attrs.frozen
class Axis:
    """Maps values to positions from ``start`` to ``end``, clipped to the values ``low`` to ``high``."""

    scale: Scale
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        bottom, at, top = (self.scale(min(max(v, self.low), self.high)) for v in (self.low, value, self.high))
        return self.start + (self.end - self.start) * ((at - bottom) / (top - bottom) if top > bottom else 0.5)


def across(costs: Sequence[float]) -> Axis:
    low, high = min(costs), max(costs)
    return Axis(Scale("logarithmic" if high / low >= 4 else "linear"), low, high, LEFT + MARGIN, RIGHT - MARGIN)


def up(found: Sequence[MetricValue]) -> Axis:
    """The vertical axis of finite qualities, with their bars and floors."""
    values, floors = [m.value for m in found], [m.floor for m in found if math.isfinite(m.floor)]
    scale = _quality_scale([*values, *floors], [m.floor_stderr for m in found], [m.stderr for m in found])
    bars = [m.value + side * m.bar for m in found if m.bar < HUGE for side in (-1, 1)]
    # On a logarithmic axis a bar may end below zero, outside of it; an asinh axis shows zero.
    least = min(values) / 2 if scale.kind == "logarithmic" else -math.inf
    wanted = [v for v in (*values, *bars) if v > least] + floors + [0.0] * (scale.kind == "asinh")
    if scale.kind != "linear":
        central = max(median(map(abs, values)), scale.unit if scale.kind == "asinh" else 0.0)
        wanted = [v for v in wanted if abs(v) <= central * 10**DECADES]
    return Axis(scale, *scale.padded(min(wanted), max(wanted)), BOTTOM, TOP)


def cost_ticks(costs: Sequence[float], across: Axis, counted: bool = True) -> list[Tick]:
    """Return ticks whose texts do not overlap: the costs if they are few and ``counted``, the most frequent first; else
    round values.
    """
    values = sorted(set(costs))
    if len(values) == 1:
        return [Tick(across(values[0]), f"{values[0]:,.4g}" + (", all cells" if len(costs) > 1 else ""))]
    if not counted or len(values) > 12:
        values = across.scale.ticks(values[0], values[-1])
    ticks = [Tick(across(cost), f"{cost:,.6g}") for cost in sorted(values, key=lambda value: -costs.count(value))]
    return _apart(ticks, lambda one, other: 4.0 * (len(one.text) + len(other.text)) + 4.0)


def quality_ticks(up: Axis) -> list[Tick]:
    """Return ticks at round values, those near zero first, with three digits and a true minus sign."""
    ticks = []
    for value in sorted(up.scale.ticks(up.low, up.high), key=abs):
        text = plain(value, 3) if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
        ticks.append(Tick(up(value), text.replace("e+0", "e").replace("e-0", "e-").replace("-", "−")))
    return _apart(ticks, lambda *_: 16.0)


def _apart(ticks: Sequence[Tick], gap: Callable[[Tick, Tick], float]) -> list[Tick]:
    """Those that do not overlap, by position; the first ones are kept."""
    kept: list[Tick] = []
    for tick in ticks:
        if all(abs(tick.at - other.at) >= gap(tick, other) for other in kept):
            kept.append(tick)
    return sorted(kept)


def _quality_scale(values: Sequence[float], *errors: Sequence[float]) -> Scale:
    """The scale of values; the ``unit`` of asinh is the median of the first ``errors`` that are known."""
    least, most = min(values), max(values)
    if least > TINY:
        return Scale("logarithmic" if most / least >= 5 else "linear")
    extent = max(-least, most)
    known = filter(None, ([error for error in each if 0 < error < math.inf] for each in errors))
    unit = max(median(next(known, [extent / 100])), TINY)
    return Scale("asinh", unit) if extent > 20 * unit else Scale("linear")
