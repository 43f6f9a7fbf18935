r"""Pools several seeds of one cell into one row: means over the seeds, with the standard error of each mean.

    value = sum_i v_i / n,     across = sqrt(sum_i (v_i - value)^2 / (n - 1) / n),     within = sqrt(sum_i se_i^2) / n

Unlike the errors se_i of the single cells, ``across`` includes everything that a seed changes: the sampler's noise, the
exact samples, the random directions of a metric. Its expectation is at least that of ``within``, but with few seeds it
is uncertain: it has n - 1 degrees of freedom, and two seeds that agree by chance would make any difference
look significant. So the standard error is the larger of the two, with its own degrees of freedom (those of ``within``
by Welch and Satterthwaite), and both are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from scoresde_core.estimate import Estimate
from scoresde_run.results.certainty import mean, spread

from .earlier import IDENTITY
from .labels import ResultRow, as_float, freedom_of, is_done

SETTING = ("run", *IDENTITY, "parameters", "plugins", "sources", "files", "timing")
"""Keys that, with the kind of device, identify a setting."""
MEASURED = {
    *("nfe", "seconds", "samples_per_second", "compile_seconds", "peak_memory_bytes"),
    *("cell_seconds", "evaluation_seconds"),
}


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
    names = dict.fromkeys(name for each in group for name in each.get("metrics") or {})
    row["metrics"] = {name: _metric([(each.get("metrics") or {}).get(name) for each in group]) for name in names}
    return row


def _metric(entries: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """One metric over the seeds; the mean is None if a value is missing or not finite."""
    present = [entry for entry in entries if entry]
    found = dict(present[0])
    for value, stderr, df in (("value", "stderr", "df"), ("floor", "floor_stderr", "floor_df")):
        if any(entry.get(value) is not None for entry in present):
            middle = mean([as_float(entry.get(value)) for entry in present])
            error, freedom = spread([_estimate(entry, value, stderr, df) for entry in present])
            within = error / len(present)
            errors = ((middle.stderr, middle.df), (within, freedom))
            chosen = max(((e, f) for e, f in errors if math.isfinite(e)), default=(None, math.inf))
            found |= {value: middle.value if math.isfinite(middle.value) else None, stderr: chosen[0], df: chosen[1]}
            if value == "value":
                found |= {"stderr_across_seeds": middle.stderr, "stderr_within_seeds": within}
    return found


def _estimate(entry: ResultRow, value: str, stderr: str, df: str) -> Estimate:
    return Estimate(as_float(entry.get(value)), as_float(entry.get(stderr)), freedom_of(entry, df))
