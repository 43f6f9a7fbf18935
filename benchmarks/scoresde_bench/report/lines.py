"""The lines of plots: which cells they join, how they look, and how many lines are split into panels.

A line joins the step counts (or training steps) of one combination. A frame shows at most a dozen lines; more are split
by the axes that give the fewest panels, side by side on one scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from .labels import AXES, ResultRow, is_done, name, varying
from .ranking import Ranking

COLOURS = 9
"""Number of colours in the template."""
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
"""Lines per frame before they are split into panels; if they cannot be, lines without a leading cell are faint."""


@attrs.frozen
class Line:
    """The label and style of a line, the same in all plots of a page."""

    label: str
    colour: int
    marker: str
    dash: str


@attrs.frozen
class Layout:
    """The line and panel of each done row, by its position among the ranked rows."""

    lines: dict[int, Line]
    panels: dict[int, str]

    @property
    def legend(self) -> list[Line]:
        """Every line once."""
        return list(dict.fromkeys(self.lines.values()))

    @property
    def titles(self) -> list[str]:
        """Every panel once; a single panel has no title."""
        return list(dict.fromkeys(self.panels.values()))


def layout(ranking: Ranking, joined: str = "steps") -> Layout:
    """Return lines that join the values of the axis ``joined``.

    Colour shows the SDE, marker and dash all other axes. With one SDE, or no other axis, all three tell lines apart.
    """
    done = [position for position, row in enumerate(ranking.rows) if is_done(row)]
    rows = [ranking.rows[position] for position in done]
    axes = [axis for axis in AXES if axis in varying(rows) and axis not in ("target", "seed", "seeds", joined)]
    apart = _panel_axes(rows, axes)
    axes = [axis for axis in axes if axis not in apart]
    rest = [axis for axis in axes if axis != "sde"]
    hues = list(dict.fromkeys(str(row.get("sde")) if "sde" in axes else "" for row in rows))
    styles = list(dict.fromkeys(name(row, rest) for row in rows))
    lines = {}
    for position, row in zip(done, rows, strict=True):
        hue, style = hues.index(str(row.get("sde")) if "sde" in axes else ""), styles.index(name(row, rest))
        colour = hue if len(hues) > 1 else style
        shape = style if len(styles) > 1 else hue
        dash = DASHES[style % len(DASHES)] if len(styles) > 1 else DASHES[0]
        label = name(row, axes or ["sde"])
        lines[position] = Line(label, colour % COLOURS, MARKERS[shape % len(MARKERS)], dash)
    return Layout(lines, {p: name(row, apart) if apart else "" for p, row in zip(done, rows, strict=True)})


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
