"""The command that repeats one cell, with the names and numbers of its row as options.

Its key is the same unless versions, source or files of the components have changed.
"""

import argparse
import shlex
from collections.abc import Sequence
from contextlib import suppress

from scoresde_core import ScoreSDEError, parse
from .labels import NAME_AXES, ResultRow

PROGRAM = "scoresde-bench"
OPTIONS = (*NAME_AXES, "steps", "seed", "dtype", "precision", "compile", "samples", "observations", "batch_size")
"""The options of a command, by the keys of a row."""
_given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # what is read from the command of a row
for _option in ("--evaluator", "--registry"):
    _given.add_argument(_option, nargs="*", action="extend")


def command(row: ResultRow) -> str:
    """Return the command as one shell line; the seeds of a pooled row are repeated together.

    A row made by another program (``scoresde evaluate``) keeps the command that made it.
    """
    given = _words(row.get("command"))
    if given and given[0] != PROGRAM:
        return str(row["command"])
    network = str(row.get("network") or "")
    learned = row.get("checkpoint") or (network and "[" not in network)  # which defines its SDE
    implied = {"sde": learned, "network": row.get("checkpoint"), "steps": _fixes_steps(str(row.get("sampler")))}
    found = {axis: [row[axis]] for axis in OPTIONS if row.get(axis) is not None and not implied.get(axis)}
    found["seed"] = list(row.get("seeds") or [row.get("seed", 0)])
    if row.get("device"):
        found["device"] = [str(row["device"]).split(" ")[0]]
    words = [PROGRAM, *(word for axis, values in found.items() for word in _typed(axis.replace("_", "-"), values))]
    asked = _given.parse_known_args(given)[0]
    if evaluators := row.get("evaluators") or asked.evaluator:  # else those that the program has by default
        words += _typed("evaluator", evaluators)
    words += [f"--{switch}" for switch in ("tf32", "timing") if row.get(switch)]
    words += [word for path in asked.registry or () for word in _typed("registry", [path])]
    return shlex.join(words)


def _typed(name: str, values: Sequence[object]) -> list[str]:
    """An option with its values; each by itself if one begins with a dash, which would be taken for an option."""
    texts = [str(value) for value in values]
    dashed = any(text.startswith("-") for text in texts)
    return [f"--{name}={text}" for text in texts] if dashed else [f"--{name}", *texts]


def _fixes_steps(sampler: str) -> bool:
    with suppress(ScoreSDEError):
        return "steps" in parse(sampler).params
    return False


def _words(text: object) -> list[str]:
    with suppress(ValueError):  # an unclosed quotation
        return shlex.split(str(text)) if text else []
    return []
