r"""The rows of one combination: those that were measured with earlier source, and those that differ in the seed alone.

When a plugin or file is edited, its cells run again under new keys and the old rows stay in the results. Then every row
of the combination says how it was measured: ``now``, or ``with an earlier`` plugin or file. Such rows are not pooled.

Several seeds of one cell become one row: means over the seeds, with the standard error of each mean.

    value = sum_i v_i / n,     across = sqrt(sum_i (v_i - value)^2 / (n - 1) / n),     within = sqrt(sum_i se_i^2) / n

Unlike the errors se_i of the single cells, ``across`` includes everything that a seed changes: the sampler's noise, the
exact samples, the random directions of a metric. Its expectation is at least that of ``within``, but with few seeds it
is uncertain: it has n - 1 degrees of freedom, and two seeds that agree by chance would make any difference
look significant. So the standard error is the larger of the two, with its own degrees of freedom (those of ``within``
by Welch and Satterthwaite), and both are kept.
"""

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from scoresde_core import Estimate
from scoresde_run.results.certainty import mean, spread
from scoresde_run.results.rows import changed
from .labels import COMPONENT_AXES, ResultRow, as_float, freedom_of, is_done

IDENTITY = (*COMPONENT_AXES, "steps", "training_step", "dtype", "tf32", "samples", "observations", "batch_size")
"""The axes that identify a combination."""
NOW, EARLIER = "now", "with an earlier "
SETTING = ("run", *IDENTITY, "parameters", "plugins", "sources", "files", "timing")
"""Keys that, with the kind of device, identify a setting."""
MEASURED = {
    *("nfe", "calls", "products", "seconds", "samples_per_second", "compile_seconds", "peak_memory_bytes"),
    *("cell_seconds", "evaluation_seconds"),
}


def identity(row: ResultRow) -> tuple[Any, ...]:
    """Return the combination of a row: its names and numbers without seed, device and versions."""
    return tuple(str(row.get(axis) or "") for axis in IDENTITY)


def tell_apart(rows: Sequence[ResultRow], current: Collection[str] | None = None) -> list[ResultRow]:
    """Return ``rows`` with an axis ``measured`` where source, files or versions differ within a combination.

    The rows of the cells ``current``, or else the newest, are ``now``. Earlier rows that are not done are dropped.
    """
    newest: dict[tuple[Any, ...], ResultRow] = {}
    for row in sorted(rows, key=lambda row: str(row.get("date") or "")):
        if current is None or row.get("cell") in current:
            newest[identity(row)] = row
    what = [changed(row, newest.get(identity(row), row)) for row in rows]
    apart = {identity(row) for row, names in zip(rows, what, strict=True) if names}
    when = [f"{EARLIER}{', '.join(names)}" if names else NOW for names in what]
    told = [{**row, "measured": at} if identity(row) in apart else row for row, at in zip(rows, when, strict=True)]
    return [row for row in told if is_current(row) or is_done(row)]


def is_current(row: ResultRow) -> bool:
    """Whether no row of the same combination is newer."""
    return bool(row.get("measured", NOW) == NOW)


def pool(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Return ``rows`` with done rows that differ only in the seed pooled, in the place of the first.

    A pooled row has all seeds as ``seeds``, the seed, cell and picture of the first, and metrics over all of them.
    A row without a partner, or that is not done, is unchanged.
    """
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        setting = [row.get(key) for key in SETTING] + [str(row.get("device")).partition(" ")[0]]
        name = json.dumps(setting, sort_keys=True, default=str) if is_done(row) else f"cell {position}"
        groups.setdefault(name, []).append(position)
    pooled: dict[int, dict[str, Any]] = {}
    for group in groups.values():
        seeds = [rows[position].get("seed") for position in group]
        if len(group) > 1 and None not in seeds and len(set(seeds)) == len(seeds):
            pooled[group[0]] = _pooled([rows[position] for position in group])
        else:
            pooled |= {position: dict(rows[position]) for position in group}
    return [pooled[position] for position in sorted(pooled)]


def _pooled(group: Sequence[ResultRow]) -> dict[str, Any]:
    row = {**group[0], "seeds": sorted(row["seed"] for row in group)}
    for name in MEASURED & set(row):
        row[name] = mean([as_float(each.get(name)) for each in group]).value
    found = [each.get("metrics") or {} for each in group]
    names = dict.fromkeys(name for metrics in found for name in metrics)
    row["metrics"] = {name: _metric([metrics[name] for metrics in found if metrics.get(name)]) for name in names}
    return row


def _metric(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One metric over the seeds; the mean is None if a value is missing or not finite."""
    found = dict(entries[0])
    for value, stderr, df in (("value", "stderr", "df"), ("floor", "floor_stderr", "floor_df")):
        if any(entry.get(value) is not None for entry in entries):
            parts = [Estimate(as_float(e.get(value)), as_float(e.get(stderr)), freedom_of(e, df)) for e in entries]
            middle, (error, freedom) = mean([part.value for part in parts]), spread(parts)
            within = error / len(parts)
            errors = ((middle.stderr, middle.df), (within, freedom))
            chosen = max(((e, f) for e, f in errors if math.isfinite(e)), default=(None, math.inf))
            found |= {value: middle.value if math.isfinite(middle.value) else None, stderr: chosen[0], df: chosen[1]}
            if value == "value":
                found |= {"stderr_across_seeds": middle.stderr, "stderr_within_seeds": within}
    return found
