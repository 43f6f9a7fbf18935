"""Labels of cells, and numbers as text.

A label always names the SDE and the step count, and other axes only if they vary within the run. Numbers are rounded
according to their standard error.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

ResultRow = Mapping[str, Any]  # a result row as it is read from ``results.jsonl``

NAME_AXES = (
    *("target", "checkpoint", "network", "sde", "known", "condition", "method"),
    *("sampler", "predictor", "corrector", "grid", "guidance"),
)
"""Axes whose values are names of components, or of what is known, as in titles and commands."""
COMPONENT_AXES = (*NAME_AXES, "precision", "compile")
"""Axes on which a missing value is a choice like any other (no corrector, a network that is not compiled)."""
NUMBER_AXES = ("steps", "training_step", "seed", "seeds", "samples", "observations", "batch_size")
"""Axes whose values are numbers; ``training_step`` is that of a checkpoint, ``seeds`` are the pooled seeds."""
SETTING_AXES = (
    *("steps", "training_step", "dtype", "tf32", "seed", "seeds", "samples", "observations", "batch_size"),
    *("device", "torch"),
)
"""Axes that always have a value; a row without one (a skipped cell) does not count as different."""
AXES = ("run", "measured", *COMPONENT_AXES, *SETTING_AXES, "scoresde")
TITLES = {"sde": "SDE", "batch_size": "batch", "tf32": "TF32", "training_step": "training step"}
"""Column headings that differ from the name of the axis."""
NOTHING = "–"
_WORDS = {
    **{("corrector", "none"): "", ("predictor", "none"): "no predictor", ("measured", "now"): ""},
    **{("compile", "default"): "compiled", ("tf32", "True"): "TF32", ("tf32", "False"): "no TF32"},
    ("steps", "1"): "1 step",
}
_PATTERNS = {
    **{"steps": "{} steps", "training_step": "after {} training steps", "seed": "seed {}", "samples": "{} samples"},
    **{"observations": "{} observations"},
    **{"batch_size": "batches of {}", "torch": "torch {}", "scoresde": "scoresde {}", "measured": "({})"},
    **{"precision": "network in {}", "compile": "compiled by {}"},
}


def is_done(row: ResultRow) -> bool:
    return row.get("status") == "done"


def truth(row: ResultRow) -> str | None:
    """Return what the samples of a row are compared with: its target or, under a condition, the posterior."""
    target, condition = row.get("target"), row.get("condition")
    return f"{target} given {condition}" if condition else target


def varying(rows: Sequence[ResultRow]) -> list[str]:
    """Return the axes on which ``rows`` differ, in the order of :data:`AXES`, ignoring the seeds of pooled rows."""
    found = []
    single = [row for row in rows if not row.get("seeds")]
    for axis in AXES:
        always = axis in COMPONENT_AXES
        told = [row for row in (single if axis == "seed" else rows) if axis in row or axis == "precision"]
        known = [row.get(axis) for row in told if always or row[axis] is not None]
        values = {str(len(value or ()) if axis == "seeds" else value) for value in known}
        if len(values) > 1:
            found.append(axis)
    return found


def columns(rows: Sequence[ResultRow]) -> list[str]:
    """Return the axes that a table shows: the SDE, the steps, the number of seeds, and what varies."""
    shown = {"sde", "steps", *varying(rows), *(["seeds"] if any(row.get("seeds") for row in rows) else [])}
    return [axis for axis in AXES if axis in shown]


def labels(rows: Sequence[ResultRow]) -> list[str]:
    """Return a short, unique name for each row, such as ``vp langevin[snr=0.16] 200 steps``."""
    shown = {"sde", "steps", *varying(rows)} - {"seeds"}
    last = ("steps", "training_step")
    axes = [axis for axis in (*(axis for axis in AXES if axis not in last), *last) if axis in shown]
    names = [name(row, axes) for row in rows]
    counts = Counter(names)
    return [
        f"{text} (cell {str(row.get('cell', position))[:6]})" if counts[text] > 1 else text
        for position, (text, row) in enumerate(zip(names, rows, strict=True))
    ]


def name(row: ResultRow, axes: Sequence[str]) -> str:
    words = [_word(axis, seed_text(row) if axis == "seed" else row.get(axis)) for axis in axes]
    return " ".join(word for word in words if word) or "cell"


def axis_text(row: ResultRow, axis: str) -> str:
    """Return the value of an axis, for a column that names the axis."""
    value = row.get(axis)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if axis == "seeds":
        return str(len(value or [row.get("seed")]))
    if axis == "seed":
        value = seed_text(row)
    return NOTHING if value is None else str(value)


def seed_text(row: ResultRow) -> str | None:
    seeds = row.get("seeds") or ([] if row.get("seed") is None else [row["seed"]])
    return ",".join(map(str, seeds)) or None


def number_text(row: ResultRow, key: str, digits: int = 4) -> str:
    value = as_float(row.get(key))
    return plain(value, digits) if value == value else NOTHING


def _word(axis: str, value: Any) -> str:
    if axis == "seeds" and value:
        return count(len(value), "seed")
    known = _WORDS.get((axis, str(value)))
    return "" if value is None else _PATTERNS.get(axis, "{}").format(value) if known is None else known


def listing(names: Sequence[str], most: int = 3) -> str:
    shown, rest = list(names[:most]), len(names) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_float(value: Any) -> float:
    """Return a number of a row; nan for ``null`` (JSON has no NaN) and anything that is not a number."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def freedom_of(entry: Mapping[str, Any], key: str) -> float:
    return math.inf if entry.get(key) is None else as_float(entry[key])


def quantity(value: float, stderr: float = math.nan) -> str:
    """Format ``3.1 ± 0.6``: the error with one or two digits, the value with as many decimals.

    Two digits up to 3.5 and one beyond is the rule of the Particle Data Group. Without an error, four digits.
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if not math.isfinite(stderr) or stderr <= 0:
        return plain(value) if stderr == 0 or math.isnan(stderr) else f"{plain(value)} ± {quantity(stderr)}"
    if abs(value) > 1e7 * stderr:
        return f"{plain(value)} ± {plain(stderr, 2)}"
    largest = max(-300, math.floor(math.log10(max(abs(value), stderr))))  # below, 10**-largest overflows
    if -4 <= largest < 5:
        places = _places(stderr)
        return f"{_fixed(value, places)} ± {_fixed(stderr, places)}"
    scale = 10.0**-largest  # a division by 10.0**largest would turn the smallest floats into inf
    places = _places(stderr * scale)
    return f"({_fixed(value * scale, places)} ± {_fixed(stderr * scale, places)})e{largest}"


def plain(value: float, digits: int = 4) -> str:
    """Format a number without an error to ``digits`` significant digits: ``200``, ``0.1346``, ``1370``, ``1.5e+06``."""
    if not math.isfinite(value):
        return quantity(value)
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    rounded = f"{value:.{digits}g}"
    return f"{float(rounded):.0f}" if "e+" in rounded and abs(value) < 1e6 else rounded


def library(row: ResultRow) -> str:
    """The library of a row's sampler with its version, as ``diffusers 0.42.1``, or ``scoresde``."""
    sampler = (row.get("parameters") or {}).get("sampler") or {}
    kind, version = str(sampler.get("type")).rpartition(":")[2], sampler.get("version")
    return f"{kind} {version}" if version else "scoresde"


def _places(stderr: float) -> int:
    exponent = max(-300, math.floor(math.log10(stderr)))
    leading = stderr / 10.0**exponent
    return max(0, (1 if leading < 3.55 else 0) - exponent)


def _fixed(value: float, places: int) -> str:
    text = f"{value:.{places}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text
