"""The lines of plots: which cells they join, how they look, and how many lines are split into panels.

A line joins the step counts (or training steps) of one combination. A frame shows at most a dozen lines; more are split
by the axes that give the fewest panels, side by side on one scale.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import attrs
from .labels import ResultRow, as_float, name, truth, varying
from .ranking import Ranking

MANY = 500  # cells up to which all are drawn, and a page has all of its pictures in itself
CROWD = 12
"""Lines per frame before they are split into panels; if they cannot be, lines without a leading cell are faint."""


@attrs.frozen
class Line:
    """The label of a line, and the numbers of its style in the template; the same in all plots of a page."""

    label: str
    colour: int
    marker: int
    dash: int


class Layout:
    """The line and panel of each drawn row, by its position among the ranked rows; lines join the axis ``joined``.

    Colour shows the SDE, marker and dash all other axes. With one SDE, or no other axis, all three tell lines apart.
    ``legend`` has every line once, ``titles`` every panel; a single panel has no title.
    """

    def __init__(self, ranking: Ranking, joined: str = "steps") -> None:
        chosen = _chosen(ranking, joined)
        rows = list(chosen.values())
        axes = _axes(rows, joined)
        apart = _panel_axes(rows, axes)
        axes = [axis for axis in axes if axis not in apart]
        hue_of = {p: str(row.get("sde")) if "sde" in axes else "" for p, row in chosen.items()}
        style_of = {p: name(row, [axis for axis in axes if axis != "sde"]) for p, row in chosen.items()}
        hues, styles = (list(dict.fromkeys(each.values())) for each in (hue_of, style_of))
        self.lines = {}
        for position, row in chosen.items():
            hue, style = hues.index(hue_of[position]), styles.index(style_of[position])
            colour, shape = hue if len(hues) > 1 else style, style if len(styles) > 1 else hue
            self.lines[position] = Line(name(row, axes or ["sde"]), colour, shape, style)
        self.panels = {position: name(row, apart) if apart else "" for position, row in chosen.items()}
        self.legend, self.titles = (list(dict.fromkeys(each.values())) for each in (self.lines, self.panels))


def _axes(rows: Sequence[ResultRow], joined: str) -> list[str]:
    return [axis for axis in varying(rows) if axis not in ("target", "condition", "seed", "seeds", joined)]


def _chosen(ranking: Ranking, joined: str) -> Mapping[int, ResultRow]:
    """The rows to draw: all, or of more than MANY those of the leading lines.

    First come lines with a cell on a Pareto front, then those with the best cells by the primary metric.
    """
    if len(ranking.done) <= MANY:
        return ranking.done
    axes, lines = _axes(list(ranking.done.values()), joined), dict[tuple[str, str], list[int]]()
    for position, row in ranking.done.items():
        lines.setdefault((str(truth(row)), name(row, axes)), []).append(position)
    places: dict[int, int] = {}
    leading: set[int] = set()
    for metric in ranking.metrics:
        for target in ranking.targets:
            found = {p: m.badness for p, m in ranking.measured(metric, target).items() if math.isfinite(m.value)}
            leading |= set(pareto({p: (as_float(ranking.rows[p].get("nfe")), badness) for p, badness in found.items()}))
            if metric == ranking.primary:
                places |= {position: place for place, position in enumerate(sorted(found, key=found.__getitem__))}
    kept: set[int] = set()
    last = len(ranking.rows)
    for members in sorted(lines.values(), key=lambda m: (leading.isdisjoint(m), min(places.get(p, last) for p in m))):
        if not kept or len(kept) + len(members) <= MANY:
            kept.update(members[:MANY])
    return {position: row for position, row in ranking.done.items() if position in kept}


def pareto(found: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the keys of the (cost, badness) that no other dominates, cheapest first."""
    front: list[int] = []
    for key, (cost, badness) in sorted(found.items(), key=lambda item: item[1]):
        if not front or badness < found[front[-1]][1] or (cost, badness) == found[front[-1]]:
            front.append(key)
    return front


def _panel_axes(rows: Sequence[ResultRow], axes: Sequence[str]) -> tuple[str, ...]:
    """The axes to split by: at most CROWD lines in the fewest panels, predictors not split if possible."""

    def crowd(apart: tuple[str, ...]) -> tuple[int, int, bool]:
        panels: dict[str, set[str]] = {}
        for row in rows:
            panels.setdefault(name(row, apart), set()).add(name(row, [axis for axis in axes if axis not in apart]))
        most = max(map(len, panels.values()), default=0)
        return (most if most > CROWD else 0, len(panels), "predictor" in apart)

    subsets = itertools.chain.from_iterable(itertools.combinations(axes, size) for size in range(max(1, len(axes))))
    return min(itertools.islice(subsets, 256), key=crowd, default=())
