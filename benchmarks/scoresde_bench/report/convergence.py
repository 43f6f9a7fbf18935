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
from itertools import product

import attrs
import numpy as np

from scoresde_core.estimate import Estimate
from scoresde_run.results.certainty import spread

from .labels import as_float, quantity
from .lines import Layout, Line
from .plot import NOISE, Cost, Frame, Plot
from .ranking import MetricValue, Ranking
from .scales import HUGE, TINY, across, up

STEPS = Cost("steps", "steps", lambda row: as_float(row.get("steps")), dodged=False)
FEWEST = 3
"""Step counts with resolved errors that a fit needs."""
MODEL = 0.05
"""Relative deviation from a power that is allowed."""
EXPLAINED = 0.97
"""Share of the variance of log e that a power must explain to be shown."""


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
            made.append(Plot(frame, here, points, fits))
            made[-1].slopes = [(line, quantity(*fit)) for line, fit in fits.items()]
    return made


def _fit(frame: Frame, members: Sequence[int]) -> tuple[float, float] | None:
    """The power of one line; None if its values change sign, which is not convergence."""
    clear = [position for position in members if resolved(frame.found[position])]
    raw = [value for position in clear if (value := frame.ranking.value(position, frame.metric))]
    if len({value.value > 0 for value in raw if value.better == "zero"}) > 1:
        return None
    return power([(frame.costs[position], frame.found[position]) for position in clear])
